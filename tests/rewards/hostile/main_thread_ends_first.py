# outcome: time_limit
# The first thread ends alone, by `exit` in place of `exit_group`, and another one goes on.
import ctypes
import platform
import threading
import time

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
