# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
refused = 0
for directory in ("/tmp", "/dev/shm", world["directory"], "/"):
    try:
        os.open(directory, os.O_TMPFILE | os.O_RDWR)
    except OSError:
        refused += 1
print("refused" if refused == 4 else "created")
