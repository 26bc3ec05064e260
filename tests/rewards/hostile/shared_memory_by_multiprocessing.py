# outcome: exit
# stdout: refused
try:
    from multiprocessing import shared_memory

    shared_memory.SharedMemory("vibelite-hostile", create=True, size=4096)
    print("created")
except (OSError, ImportError):
    print("refused")
