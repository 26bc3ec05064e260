"""VibeLite: the VibeThinker recipe on one machine, with the cost of every step known.

From Python: `train`, `plan`, `evaluate` and `Run` of `vibelite.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibelite.api import Run, evaluate, plan, train

__all__ = ["Run", "evaluate", "plan", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the functions when they are asked for: verifiers' processes start without them."""
    if name not in __all__:
        raise AttributeError(f"module 'vibelite' has no {name!r}")
    from vibelite import api

    return getattr(api, name)
