# outcome: runtime_error
import os

os.closerange(0, 256)
print("lost")
