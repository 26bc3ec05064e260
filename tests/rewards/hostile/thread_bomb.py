# outcome: exit
# stdout: bounded
import os
import threading
import time

threading.stack_size(64 << 10)
count = 0
try:
    while count < 20_000:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    pass
os.write(1, b"bounded\n" if count < 20_000 else b"no bound\n")
os._exit(0)
