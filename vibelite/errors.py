"""Errors that a user can act on.

Every message names the offending value, where it is and what to do. Anything else that is raised is
a defect of the program and keeps its traceback.
"""


class VibeLiteError(Exception):
    """The run cannot go on; `exit_code` is what the process returns (docs/commands.md)."""

    exit_code = 1
    printed_by_leader = False
    """Whether another process of the run, its leader, met the same error and prints it."""


class RecipeError(VibeLiteError):
    """The recipe, an override or a command-line argument is wrong."""

    exit_code = 2


class DataError(VibeLiteError):
    """A data source is missing, unreadable, or has rows that cannot be used."""

    exit_code = 2


class RunStopped(VibeLiteError):
    """The run ended before its end with everything saved; the same command goes on."""


class BudgetReached(RunStopped):
    """The next step would have crossed the budget."""

    exit_code = 10


class NothingLearned(RunStopped):
    """Too many steps in a row had no gradient; a setting has to change before the run goes on."""

    exit_code = 1


class Interrupted(RunStopped):
    """Somebody asked for it; 75 tells a job scheduler to start the run again."""

    exit_code = 75


class EngineError(VibeLiteError):
    """A rollout engine cannot be started or used."""


class CheckpointError(VibeLiteError):
    """A checkpoint is missing, damaged, or does not belong to this run."""


class StorageError(VibeLiteError):
    """The file system of the run directory refuses to be written."""


class DiskFull(StorageError):
    """What is to be written does not fit; what was complete before is untouched."""

    exit_code = 5


class SandboxError(VibeLiteError):
    """Programs cannot be run here, because nothing on this machine would confine them."""


class PeerLost(VibeLiteError):
    """Another rank of the run ended or cannot be reached; why is for that one to say."""
