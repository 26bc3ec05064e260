# outcome: exit
# stdout: first
import sys


class Late:
    def __del__(self):
        print("last", file=sys.__stderr__)


late = Late()
print("first")
