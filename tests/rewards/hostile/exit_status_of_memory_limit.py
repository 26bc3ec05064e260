# outcome: memory_limit
# What a program claims about itself by its status is no better than failing.
import os

os._exit(101)
