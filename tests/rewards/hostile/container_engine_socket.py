# outcome: exit
# stdout: refused
import socket

try:
    socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
    print("connected")
except OSError:
    print("refused")
