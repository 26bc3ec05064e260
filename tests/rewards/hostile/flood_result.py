# outcome: output_limit
# function: f
def f():
    return "x" * (1 << 24)
