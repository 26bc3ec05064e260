# outcome: output_limit
# seconds: 0.5
import os
import signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
while True:
    try:
        os.write(1, bytes(1 << 16))
    except OSError:
        pass
