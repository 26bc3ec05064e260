# outcome: exit
# stdout: ended
import threading
import time

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
print("ended")
