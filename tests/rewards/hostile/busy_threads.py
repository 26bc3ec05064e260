# outcome: time_limit
import hashlib
import threading


def burn():
    while True:
        hashlib.sha256(bytes(1 << 22)).digest()


for _ in range(4):
    threading.Thread(target=burn).start()
