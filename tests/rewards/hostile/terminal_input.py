# outcome: exit
# stdout: refused
# TIOCSTI puts characters into the terminal of whoever started the sandbox.
import fcntl

refused = 0
for descriptor in range(3):
    try:
        fcntl.ioctl(descriptor, 0x5412, b"x")
    except OSError:
        refused += 1
print("refused" if refused == 3 else "written")
