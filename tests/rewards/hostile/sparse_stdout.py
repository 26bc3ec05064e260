# outcome: output_limit
import os

os.ftruncate(1, 1 << 40)
