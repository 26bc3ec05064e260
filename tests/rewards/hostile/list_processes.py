# outcome: exit
# stdout: refused
import os

try:
    print(os.listdir("/proc"))
except OSError:
    print("refused")
