# outcome: exit
# stdout: refused
import urllib.request

try:
    urllib.request.urlopen("http://127.0.0.1:80/", timeout=1)
    print("answered")
except OSError:
    print("refused")
