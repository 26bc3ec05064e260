# outcome: exit
import sys

sys.stdout.close()
sys.stderr.close()
sys.stdin.close()
