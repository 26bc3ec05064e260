# outcome: exit
# stdout: bounded
import os

count = 0
try:
    while count < 100_000:
        os.dup(0)
        count += 1
except OSError:
    pass
print("bounded" if count < 1000 else "no bound")
