# outcome: exit
# stdout: refused
import os

try:
    os.setsid()
    print("a new session")
except OSError:
    print("refused")
