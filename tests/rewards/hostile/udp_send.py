# outcome: exit
# stdout: refused
import json
import socket

world = json.loads(input())
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"leak", ("127.0.0.1", world["port"]))
    print("sent")
except OSError:
    print("refused")
