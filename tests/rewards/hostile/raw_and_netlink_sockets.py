# outcome: exit
# stdout: refused
import socket

refused = 0
for family, kind in (
    (socket.AF_INET, socket.SOCK_RAW),
    (socket.AF_NETLINK, socket.SOCK_RAW),
    (socket.AF_PACKET, socket.SOCK_RAW),
    (socket.AF_INET6, socket.SOCK_DGRAM),
):
    try:
        socket.socket(family, kind)
    except OSError:
        refused += 1
print("refused" if refused == 4 else "opened")
