# outcome: exit
# stdout: refused
import json

world = json.loads(input())
refused = 0
for path in (f"/proc/{world['parent']}/environ", "/proc/1/environ", "/proc/self/environ"):
    try:
        print(open(path, "rb").read())
    except OSError:
        refused += 1
print("refused" if refused == 3 else "read")
