"""VibeLite: the VibeThinker recipe on one machine, with the cost of every step known."""

__version__ = "0.1.0"
