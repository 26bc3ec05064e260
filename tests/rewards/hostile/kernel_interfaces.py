# outcome: exit
# stdout: refused
# bpf, perf_event_open, userfaultfd, add_key, keyctl, personality, kexec_load, init_module.
import ctypes
import platform

numbers = {
    "x86_64": (321, 298, 323, 248, 250, 135, 246, 175),
    "aarch64": (280, 241, 282, 217, 219, 92, 104, 105),
}[platform.machine()]
libc = ctypes.CDLL(None)
allowed = [number for number in numbers if libc.syscall(number, 0, 0, 0, 0, 0) >= 0]
print(allowed or "refused")
