# outcome: memory_limit
chunks = []
while True:
    chunks.append(bytes(1 << 20))
