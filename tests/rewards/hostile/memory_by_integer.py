# outcome: memory_limit
1 << (1 << 40)
