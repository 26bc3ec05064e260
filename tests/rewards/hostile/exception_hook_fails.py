# outcome: runtime_error
import sys


def hook(*_):
    raise RuntimeError


sys.excepthook = hook
raise ValueError
