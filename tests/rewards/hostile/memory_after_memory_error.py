# outcome: memory_limit
while True:
    try:
        held = [bytes(1 << 20) for _ in range(1 << 20)]
    except MemoryError:
        break
bytearray(1 << 40)
