# outcome: exit
# stdout: bounded
import _thread
import os

_thread.stack_size(64 << 10)
lock = _thread.allocate_lock()
lock.acquire()
count = 0
try:
    while count < 20_000:
        _thread.start_new_thread(lock.acquire, ())
        count += 1
except (RuntimeError, MemoryError):
    pass
os.write(1, b"bounded\n" if count < 20_000 else b"no bound\n")
os._exit(0)
