# outcome: exit
# stdout: refused
import os
import signal

refused = 0
for attempt in (lambda: os.kill(0, signal.SIGKILL), lambda: os.killpg(0, signal.SIGKILL)):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 2 else "sent")
