# outcome: exit
# stdout: refused
import json
import os
import signal

world = json.loads(input())
try:
    os.kill(world["parent"], signal.SIGKILL)
    print("sent")
except OSError:
    print("refused")
