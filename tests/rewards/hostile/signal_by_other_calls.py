# outcome: exit
# stdout: refused
# tkill, rt_sigqueueinfo and tgkill to another process.
import ctypes
import json
import platform

world = json.loads(input())
numbers = {"x86_64": (200, 129, 234), "aarch64": (130, 138, 131)}[platform.machine()]
tkill, queue, tgkill = numbers
libc = ctypes.CDLL(None)
info = ctypes.create_string_buffer(128)
results = [
    libc.syscall(tkill, world["parent"], 9),
    libc.syscall(queue, world["parent"], 9, info),
    libc.syscall(tgkill, world["parent"], world["parent"], 9),
]
print("refused" if results == [-1, -1, -1] else "sent")
