# outcome: exit
# stdout: refused
# Opening for reading with O_TRUNC empties a file, too.
import json
import os

world = json.loads(input())
refused = 0
for attempt in (
    lambda: os.truncate(world["secret"], 0),
    lambda: os.open(world["secret"], os.O_RDONLY | os.O_TRUNC),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 2 else "emptied")
