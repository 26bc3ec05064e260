# outcome: exit
# stdout: refused
import json
import socket

world = json.loads(input())
try:
    socket.socket(socket.AF_UNIX).connect(world["unix"])
    print("connected")
except OSError:
    print("refused")
