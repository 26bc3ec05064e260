# outcome: exit
# stdout: refused
import os

print("refused" if os.system("true") != 0 else "ran")
