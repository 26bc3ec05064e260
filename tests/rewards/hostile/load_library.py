# outcome: exit
# stdout: refused
import ctypes
import json
import shutil

world = json.loads(input())
refused = 0
for attempt in (
    lambda: shutil.copyfile(ctypes.__file__, world["directory"] + "/vibelite-hostile.so"),
    lambda: ctypes.CDLL(world["secret"]),
    lambda: ctypes.CDLL("/lib/libvibelite-hostile.so"),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 3 else "loaded")
