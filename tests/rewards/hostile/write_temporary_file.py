# outcome: exit
# stdout: refused
import tempfile

try:
    tempfile.NamedTemporaryFile(prefix="vibelite-hostile").write(b"x")
    print("written")
except OSError:
    print("refused")
