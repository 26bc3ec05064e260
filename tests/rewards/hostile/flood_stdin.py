# outcome: output_limit
import os

while True:
    os.write(0, bytes(1 << 16))
