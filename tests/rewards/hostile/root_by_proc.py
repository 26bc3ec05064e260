# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
refused = 0
for path in (
    "/proc/1/root",
    f"/proc/{world['parent']}/root",
    f"/proc/{world['parent']}/cwd",
    f"/proc/{world['parent']}/fd",
):
    try:
        print(os.listdir(path))
    except OSError:
        refused += 1
print("refused" if refused == 4 else "listed")
