# outcome: exit
# stdout: refused
try:
    open("/proc/self/oom_score_adj", "w").write("-1000")
    print("written")
except OSError:
    print("refused")
