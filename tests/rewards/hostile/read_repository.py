# outcome: exit
# stdout: refused
import json

world = json.loads(input())
try:
    print(open(world["repository"] + "/pyproject.toml").read())
except OSError:
    print("refused")
