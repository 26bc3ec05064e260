# outcome: runtime_error
# function: f
def g():
    return 1
