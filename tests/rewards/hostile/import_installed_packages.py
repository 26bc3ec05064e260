# outcome: exit
# stdout: refused
import importlib

refused = 0
for name in ("vibelite", "torch", "pytest", "numpy", "pip"):
    try:
        importlib.import_module(name)
    except ImportError:
        refused += 1
print("refused" if refused == 5 else "imported")
