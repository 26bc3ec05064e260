# outcome: runtime_error
import atexit
import sys

atexit.register(sys.exit, 0)
raise ValueError("still a failure")
