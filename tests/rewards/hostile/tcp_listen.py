# outcome: exit
# stdout: refused
import socket

try:
    socket.create_server(("127.0.0.1", 0))
    print("listening")
except OSError:
    print("refused")
