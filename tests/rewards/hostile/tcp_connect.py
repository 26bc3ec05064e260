# outcome: exit
# stdout: refused
import json
import socket

world = json.loads(input())
try:
    socket.create_connection(("127.0.0.1", world["port"]), 1).sendall(b"leak")
    print("connected")
except OSError:
    print("refused")
