# outcome: exit
# stdout: []
import os

found = []
for descriptor in range(3, 1024):
    try:
        found.append(os.write(descriptor, b"ready"))
    except OSError:
        pass
print(found)
