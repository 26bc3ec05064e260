# outcome: output_limit
# function: f
# The result's file is memory of the machine, too.
import os


def f():
    for _ in range(1 << 20):
        os.write(3, bytes(1 << 20))
