# outcome: exit
# stdout: refused
import socket

try:
    print(socket.getaddrinfo("example.org", 80))
except OSError:
    print("refused")
