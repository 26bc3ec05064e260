# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
try:
    os.symlink("/etc/shadow", world["directory"] + "/vibelite-hostile")
    print("made")
except OSError:
    print("refused")
