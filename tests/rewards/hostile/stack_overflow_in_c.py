# outcome: runtime_error
nested = iter(())
for _ in range(800_000):
    nested = map(abs, nested)
list(nested)
