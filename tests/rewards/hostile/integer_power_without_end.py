# outcome: time_limit
pow(7, 10**9)
