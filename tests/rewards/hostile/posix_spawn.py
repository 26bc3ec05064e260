# outcome: exit
# stdout: refused
import os

try:
    os.posix_spawn("/bin/true", ["true"], {})
    print("spawned")
except OSError:
    print("refused")
