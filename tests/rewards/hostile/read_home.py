# outcome: exit
# stdout: refused
import os

refused = 0
for name in ("/.ssh", "/.bashrc", "/.netrc", "/.cache/huggingface/token"):
    for home in ("/root", os.path.expanduser("~")):
        try:
            print(os.listdir(home + name) if name == "/.ssh" else open(home + name).read())
        except OSError:
            refused += 1
print("refused" if refused == 8 else "read")
