# outcome: exit
# stdout: refused
import multiprocessing

try:
    multiprocessing.get_context("fork").Process(target=print).start()
    print("started")
except (OSError, ImportError):
    print("refused")
