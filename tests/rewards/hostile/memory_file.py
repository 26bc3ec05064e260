# outcome: exit
# stdout: refused
import os

try:
    os.memfd_create("vibelite-hostile")
    print("created")
except OSError:
    print("refused")
