# outcome: exit
# stdout: []
import os

found = []
for descriptor in range(3, 4096):
    try:
        os.fstat(descriptor)
        found.append(descriptor)
    except OSError:
        pass
print(found)
