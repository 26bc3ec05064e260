# outcome: exit
# stdout: refused
try:
    open("/dev/shm/vibelite-hostile", "w").write("x")
    print("written")
except OSError:
    print("refused")
