# outcome: exit
# stdout: refused
try:
    open("/tmp/vibelite-hostile", "w").write("x")
    print("written")
except OSError:
    print("refused")
