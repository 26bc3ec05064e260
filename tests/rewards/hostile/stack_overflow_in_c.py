# outcome: runtime_error
import sys

sys.setrecursionlimit(1 << 30)
nested = []
for _ in range(3_000_000):
    nested = [nested]
repr(nested)
