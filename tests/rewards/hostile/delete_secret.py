# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
try:
    os.unlink(world["secret"])
    print("deleted")
except OSError:
    print("refused")
