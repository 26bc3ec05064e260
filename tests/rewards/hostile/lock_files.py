# outcome: exit
# stdout: refused
# The descriptors are shared with the sandbox, which must not come to wait for a lock.
import fcntl

refused = 0
for attempt in (
    lambda: fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB),
    lambda: fcntl.lockf(1, fcntl.LOCK_EX | fcntl.LOCK_NB),
    lambda: fcntl.fcntl(1, 1024, 1),
    lambda: fcntl.fcntl(1, 1033, 1),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 4 else "locked")
