# outcome: exit
# stdout: refused
import json

world = json.loads(input())
try:
    open(world["secret"], "a").write("x")
    print("written")
except OSError:
    print("refused")
