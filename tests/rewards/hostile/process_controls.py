# outcome: exit
# stdout: refused
# PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, PR_SET_PTRACER.
import ctypes

prctl = ctypes.CDLL(None).prctl
results = [prctl(option, 1, 0, 0, 0) for option in (4, 22, 36, 1, 0x59616D61)]
print("refused" if set(results) == {-1} else "changed")
