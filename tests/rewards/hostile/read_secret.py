# outcome: exit
# stdout: refused
import json

world = json.loads(input())
try:
    print(open(world["secret"]).read())
except OSError:
    print("refused")
