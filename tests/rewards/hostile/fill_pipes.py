# outcome: exit
# stdout: bounded
import os

count = 0
try:
    while count < 100_000:
        for descriptor in os.pipe():
            os.set_blocking(descriptor, False)
        os.write(descriptor, bytes(1 << 20))
        count += 1
except OSError:
    pass
print("bounded" if count < 1000 else "no bound")
