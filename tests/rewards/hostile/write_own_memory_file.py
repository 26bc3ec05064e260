# outcome: exit
# stdout: refused
try:
    open("/proc/self/mem", "r+b").write(b"x")
    print("written")
except OSError:
    print("refused")
