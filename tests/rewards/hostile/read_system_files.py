# outcome: exit
# stdout: refused
refused = 0
for path in (
    "/etc/passwd",
    "/etc/shadow",
    "/etc/hostname",
    "/proc/cpuinfo",
    "/proc/net/tcp",
    "/sys/kernel/version",
    "/var/log/dpkg.log",
):
    try:
        print(open(path).read())
    except OSError:
        refused += 1
print("refused" if refused == 7 else "read")
