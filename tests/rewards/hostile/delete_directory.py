# outcome: exit
# stdout: refused
import json
import shutil

world = json.loads(input())
try:
    shutil.rmtree(world["directory"])
    print("deleted")
except OSError:
    print("refused")
