"""Runs Python programs that nobody has read: one short-lived, confined process for each.

A program can read the Python standard library and its own standard input, write to its own bounded
output, and end; nothing else of the machine is reachable. How strongly that is enforced is the
tier, and a self-test at the start picks the strongest one that holds on this machine.
"""

from __future__ import annotations

import queue

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox_selftest import self_test
from vibelite.rewards.sandbox_slot import DEFAULT_LIMITS, Execution, Limits, Outcome, Slot

__all__ = ["Execution", "Limits", "Outcome", "Sandbox", "describe_tier"]

# Strongest first; what each asks of the kernel. All have limits of resources; a user id of their
# own where the sandbox is started by root; and, where root or a user namespace permits, a root
# directory that holds the standard library alone.
TIERS: dict[str, tuple[str, ...]] = {
    "namespaces": ("namespaces", "landlock", "seccomp"),
    "landlock": ("landlock", "seccomp"),
    "seccomp": ("seccomp",),
}
WEAK = "weak"


class Sandbox:
    """Fork servers that run `num_slots` programs at once; `run` may be called from any thread.

    >>> with Sandbox(num_slots=2) as sandbox:
    ...     sandbox.run("print(int(input()) + 1)", stdin=b"41").stdout
    b'42\\n'
    """

    def __init__(
        self, *, num_slots: int = 1, allow_weak: bool = False, tiers: tuple[str, ...] = tuple(TIERS)
    ) -> None:
        """Starts the servers and tests them with hostile programs; `tiers` are the ones to try.

        Raises SandboxError where no tier holds, unless `allow_weak`: then programs run with limits
        of resources and little else, `tier` is "weak", and `weakness` says why.
        """
        assert num_slots >= 1, f"num_slots {num_slots}"
        self._slots: queue.LifoQueue[Slot] = queue.LifoQueue()
        self._all: list[Slot] = []
        self._is_closed = False
        self.tier, self.weakness, first = _strongest(tiers, allow_weak=allow_weak)
        self.layers = first.layers
        for slot in (first, *(Slot(TIERS.get(self.tier, ())) for _ in range(num_slots - 1))):
            self._all.append(slot)
            self._slots.put(slot)

    def run(
        self,
        source: str,
        *,
        stdin: bytes = b"",
        function: str = "",
        limits: Limits = DEFAULT_LIMITS,
    ) -> Execution:
        """Runs a program, or one call of its `function`; waits for a free slot.

        With `function`, `stdin` has one JSON argument a line; it may be a method of a class
        Solution. Raises SandboxError only if the sandbox itself fails, twice.
        """
        assert not self._is_closed, "the sandbox is closed"
        slot = self._slots.get()
        try:
            return slot.run(source, stdin, function, limits)
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Ends all servers and what runs in them."""
        self._is_closed = True
        for slot in self._all:
            slot.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_tier() -> str:
    """One line on how programs are confined on this machine; SandboxError if they are not."""
    with Sandbox() as sandbox:
        return f"{sandbox.tier} ({', '.join(sandbox.layers)})"


def _strongest(tiers: tuple[str, ...], *, allow_weak: bool) -> tuple[str, str, Slot]:
    """The first tier that starts and passes the self-test, why none did or "", and a slot of it."""
    reasons = []
    for tier in tiers:
        slot = Slot(TIERS[tier])
        try:
            slot.start()
            broken = self_test(slot)
        except SandboxError as error:
            broken = str(error)
        if not broken:
            return tier, "", slot
        slot.close()
        reasons.append(f"{tier}: {broken}")
    weakness = "; ".join(reasons)
    if not allow_weak:
        raise SandboxError(
            f"programs cannot be confined on this machine ({weakness}); use a machine or container "
            "that allows seccomp filters, or, where nothing on it matters, "
            "verification.allow_weak_sandbox: true"
        )
    slot = Slot(())
    slot.start()
    return WEAK, weakness, slot
