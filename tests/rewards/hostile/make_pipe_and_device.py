# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
refused = 0
for make in (os.mkfifo, lambda path: os.mknod(path, 0o20666, os.makedev(1, 1))):
    try:
        make(world["directory"] + "/vibelite-hostile")
    except OSError:
        refused += 1
print("refused" if refused == 2 else "made")
