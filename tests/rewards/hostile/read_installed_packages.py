# outcome: exit
# stdout: refused
# Of the interpreter that runs this: they are below the standard library, which may be read.
import os
import sys

refused = read = 0
for directory in {*sys.path, os.path.dirname(os.__file__)}:
    for name in ("site-packages", "dist-packages"):
        path = os.path.join(directory, name)
        for file in ("README.txt", "pip/__init__.py", "_distutils_hack/__init__.py"):
            try:
                open(os.path.join(path, file)).read()
                read += 1
            except OSError:
                refused += 1
print("refused" if refused and not read else "read")
