# outcome: memory_limit
# SIGKILL is what the kernel sends when memory runs out; to pretend that is no better than failing.
import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
