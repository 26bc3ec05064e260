# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
try:
    os.rename(world["secret"], world["directory"] + "/vibelite-hostile")
    print("renamed")
except OSError:
    print("refused")
