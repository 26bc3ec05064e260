# outcome: exit
# stdout: refused
# Relative to the standard library, by descriptor, and by names that mean the same.
import json
import os

world = json.loads(input())
library = os.path.dirname(os.__file__)
refused = 0
for path in (
    library + "/../../../../../../.." + world["secret"],
    "/proc/self/root" + world["secret"],
    "/." + world["secret"],
    "/dev/fd/../../.." + world["secret"],
):
    try:
        print(os.read(os.open(path, os.O_RDONLY), 100))
    except OSError:
        refused += 1
print("refused" if refused == 4 else "read")
