# outcome: runtime_error
import os
import signal

os.kill(os.getpid(), signal.SIGTERM)
