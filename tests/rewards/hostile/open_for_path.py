# outcome: exit
# stdout: refused
# O_PATH is for neither reading nor writing; what it opens must not lead on to a file's content.
import json
import os

world = json.loads(input())
refused = 0
for path in (world["secret"], "/"):
    try:
        descriptor = os.open(path, os.O_PATH)
        print(os.read(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY), 1))
    except OSError:
        refused += 1
try:
    print(os.read(os.open(world["secret"], os.O_PATH), 1))
except OSError:
    refused += 1
print("refused" if refused == 3 else "read")
