# outcome: exit
# stdout: refused
# A descriptor's owner is sent a signal of choice when there is something to read.
import fcntl
import json
import os

world = json.loads(input())
reading, writing = os.pipe()
refused = 0
for command, value in ((fcntl.F_SETOWN, world["parent"]), (fcntl.F_SETSIG, 9)):
    try:
        fcntl.fcntl(reading, command, value)
    except OSError:
        refused += 1
fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
os.write(writing, b"x")
print("refused" if refused == 2 else "sent")
