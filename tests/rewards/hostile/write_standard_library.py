# outcome: exit
# stdout: refused
import os

try:
    open(os.path.join(os.path.dirname(os.__file__), "vibelite_hostile.py"), "w")
    print("written")
except OSError:
    print("refused")
