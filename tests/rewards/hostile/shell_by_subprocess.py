# outcome: exit
# stdout: refused
import subprocess

try:
    subprocess.run("true", shell=True)
    print("ran")
except OSError:
    print("refused")
