# outcome: exit
# stdout: refused
from multiprocessing import shared_memory

try:
    shared_memory.SharedMemory("vibelite-hostile", create=True, size=4096)
    print("created")
except OSError:
    print("refused")
