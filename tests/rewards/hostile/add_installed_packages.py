# outcome: exit
# stdout: refused
import os
import sys

for directory in list(sys.path):
    sys.path += [os.path.join(directory, name) for name in ("site-packages", "dist-packages")]
try:
    import pip

    print("imported", pip)
except (ImportError, OSError):
    print("refused")
