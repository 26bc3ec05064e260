# outcome: memory_limit
text = "x"
while True:
    text += text
