"""Errors that a user can act on.

Every message names the offending value, where it is and what to do. Anything else that is raised is
a defect of the program and keeps its traceback.
"""


class VibeLiteError(Exception):
    """The run cannot go on; `exit_code` is what the process returns (README, "Exit codes")."""

    exit_code = 1


class RecipeError(VibeLiteError):
    """The recipe, an override or a command-line argument is wrong."""

    exit_code = 2


class DataError(VibeLiteError):
    """A data source is missing, unreadable, or has rows that cannot be used."""

    exit_code = 2


class EngineError(VibeLiteError):
    """A rollout engine cannot be started or used."""


class CheckpointError(VibeLiteError):
    """A checkpoint is missing, damaged, or does not belong to this run."""
