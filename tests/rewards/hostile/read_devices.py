# outcome: exit
# stdout: refused
refused = 0
for path in (
    "/dev/mem",
    "/dev/kmsg",
    "/dev/sda",
    "/dev/nvidia0",
    "/dev/nvidiactl",
    "/dev/tty",
    "/dev/urandom",
):
    try:
        print(open(path, "rb").read(1))
    except OSError:
        refused += 1
print("refused" if refused == 7 else "read")
