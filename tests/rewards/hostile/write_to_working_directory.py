# outcome: exit
# stdout: refused
try:
    open("vibelite-hostile", "w").write("x")
    print("written")
except OSError:
    print("refused")
