# outcome: memory_limit
# Shared memory is not the process's own, but counts.
import mmap

held = []
try:
    while True:
        held.append(mmap.mmap(-1, 1 << 24))
        held[-1].write(bytes(1 << 24))
except OSError:
    raise MemoryError from None
