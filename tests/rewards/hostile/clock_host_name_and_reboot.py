# outcome: exit
# stdout: refused
import socket
import time

refused = 0
for attempt in (
    lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
    lambda: socket.sethostname("vibelite-hostile"),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 2 else "changed")
