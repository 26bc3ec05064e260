# outcome: exit
# function: f
import sys


def f():
    sys.exit(0)
