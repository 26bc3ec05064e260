# outcome: exit
# stdout: nothing
# Objects of the server that hold descriptors or other programs.
import gc
import socket
import subprocess

kinds = (socket.socket, subprocess.Popen)
found = [item for item in gc.get_objects() if isinstance(item, kinds) and item.fileno() >= 0]
print(found or "nothing")
