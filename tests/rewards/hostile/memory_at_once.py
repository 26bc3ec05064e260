# outcome: memory_limit
bytearray(1 << 40)
