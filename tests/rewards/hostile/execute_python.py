# outcome: exit
# stdout: refused
import os
import sys

try:
    os.execv(sys.executable, ["python", "-c", "print('ran')"])
except OSError:
    print("refused")
