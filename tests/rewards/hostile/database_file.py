# outcome: exit
# stdout: refused
# SQLite is C code that opens files by itself, also through a program's harmless-looking ATTACH.
import json
import sqlite3

world = json.loads(input())
refused = 0
connection = sqlite3.connect(":memory:")
for path in (world["directory"] + "/vibelite-hostile.db", "/tmp/vibelite-hostile.db"):
    try:
        connection.execute("attach ? as other", (path,))
        connection.execute("create table other.t (x)")
    except sqlite3.Error:
        refused += 1
print("refused" if refused == 2 else "written")
