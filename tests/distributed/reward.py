"""A reward that random completions sometimes have, so that groups are mixed and weights move."""


def has_even_length(problem, text: str) -> float:
    return float(len(text) % 2 == 0)
