# outcome: exit
# stdout: refused
import multiprocessing

try:
    multiprocessing.get_context("fork").Process(target=print).start()
    print("started")
except OSError:
    print("refused")
