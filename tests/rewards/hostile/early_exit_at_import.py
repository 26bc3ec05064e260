# outcome: exit
# function: f
raise SystemExit(0)
