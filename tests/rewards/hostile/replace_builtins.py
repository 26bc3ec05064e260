# outcome: exit
# stdout: fine
import builtins
import os
import sys

write = os.write
builtins.__dict__.clear()
os.__dict__.clear()
sys.modules.clear()
write(1, b"fine\n")
