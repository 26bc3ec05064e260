# outcome: exit
# stdout: refused
import os

refused = 0
for attempt in (
    lambda: os.nice(5),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 3 else "changed")
