# outcome: exit
# stdout: refused
import mmap

try:
    mmap.mmap(-1, 1 << 40)
    print("mapped")
except OSError:
    print("refused")
