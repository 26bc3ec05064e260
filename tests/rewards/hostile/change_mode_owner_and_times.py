# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
refused = 0
for attempt in (
    lambda: os.chmod(world["secret"], 0o777),
    lambda: os.chown(world["secret"], os.getuid(), os.getgid()),
    lambda: os.utime(world["secret"], (0, 0)),
    lambda: os.setxattr(world["secret"], "user.x", b"x"),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 4 else "changed")
