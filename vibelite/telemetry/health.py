"""What keeps a run from learning, with its cause and what to do, from the numbers of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

Numbers = Mapping[str, float]
"""A step's metrics and its counts (`completion_counts`)."""

# Of a stage, what was wrong with it before its first step: cause -> sentence.
WARNINGS_NAME = "warnings.json"

CUT_OFF = 0.9
"""Share of completions."""
FAILED, UNVERIFIABLE = 0.1, 0.5
"""Shares of completions whose verifier failed, or could not judge."""
FEW, MANY = 0.25, 4.0
"""Lengths, as multiples of those of the first steps."""
COLLAPSED_ENTROPY = 0.1
"""As a multiple of that of the first steps."""
SPIKE = 10.0
"""Gradient norm, as a multiple of the usual one."""
FIRST_STEPS, LAST_STEPS = 5, 20
FAILURES = ("timeout", "crash", "exception")


def without_signal(numbers: Numbers) -> bool:
    """Whether no group's rewards differ, so that nothing is learned from rewards."""
    return numbers.get("groups/signal") == 0


def why_no_signal(numbers: Numbers) -> str:
    """The likeliest reason, and the setting to change."""
    if numbers["completion/truncated"] >= CUT_OFF:
        return "nearly all completions are cut off: raise sampling.max_new_tokens"
    if numbers["groups/all_correct"] == 1:
        return "all completions are right: use harder problems, or prefilter_samples"
    if numbers["reward/mean"] == 0:
        return (
            "no completion earns a reward: look at `vibelite samples`; use easier problems, more "
            "SFT before, or check the verifier with `vibelite verify`"
        )
    return (
        "all completions of a problem earn the same: check the reward with `vibelite verify`, or "
        "raise group_size"
    )


def cut_off(numbers: Numbers, past: Sequence[Numbers]) -> str:
    share = numbers.get("completion/truncated", 0)
    if share < CUT_OFF:
        return ""
    return (
        f"{share:.0%} of the completions are cut off before their answer: raise "
        "sampling.max_new_tokens, or train for shorter answers first"
    )


def no_signal(numbers: Numbers, past: Sequence[Numbers]) -> str:
    # One such step may be chance where a step has few groups.
    if not without_signal(numbers) or not past or not without_signal(past[-1]):
        return ""
    return f"no group has rewards that differ, so nothing is learned: {why_no_signal(numbers)}"


def verifier_failures(numbers: Numbers, past: Sequence[Numbers]) -> str:
    total = numbers.get("num_completions", 0)
    failed = {kind: numbers.get(f"verify/failures_{kind}", 0) for kind in FAILURES}
    if not total or sum(failed.values()) < FAILED * total:
        return ""
    kinds = ", ".join(f"{count:.0f} {kind}" for kind, count in failed.items() if count)
    return (
        f"the verifier failed on {sum(failed.values()):.0f} of {total:.0f} completions ({kinds}), "
        "which count as wrong: see `vibelite samples`"
    )


def unverifiable(numbers: Numbers, past: Sequence[Numbers]) -> str:
    total, unread = numbers.get("num_completions", 0), numbers.get("verify/unverifiable", 0)
    if not total or unread < UNVERIFIABLE * total:
        return ""
    return (
        f"{unread:.0f} of {total:.0f} completions hold nothing that the verifier can judge: see "
        "`vibelite samples --only unverifiable`"
    )


def entropy_collapse(numbers: Numbers, past: Sequence[Numbers]) -> str:
    now, first = numbers.get("policy/entropy"), early(past, "policy/entropy")
    if now is None or first is None or now >= COLLAPSED_ENTROPY * first:
        return ""
    return (
        f"entropy fell from {first:.2g} to {now:.2g} nats per token: completions of a problem "
        "become alike; lower optimizer.lr, or raise sampling.temperature"
    )


def length_change(numbers: Numbers, past: Sequence[Numbers]) -> str:
    now, first = numbers.get("completion/mean_tokens"), early(past, "completion/mean_tokens")
    if now is None or not first or FEW * first < now < MANY * first:
        return ""
    change = "collapsed" if now < first else "exploded"
    return (
        f"completions {change} from {first:.0f} to {now:.0f} tokens: read them with `vibelite "
        "samples`; the reward may be earned without a solution, or optimizer.lr is too high"
    )


def gradient_spike(numbers: Numbers, past: Sequence[Numbers]) -> str:
    key = "optimizer/grad_norm"
    before = [step[key] for step in past[-LAST_STEPS:] if key in step]
    now = numbers.get(key, 0)
    if len(before) < LAST_STEPS // 2 or now <= SPIKE * median(before):
        return ""
    return (
        f"the gradient's norm is {now:.3g}, usually {median(before):.3g}: if it happens again, "
        "lower optimizer.lr"
    )


def early(past: Sequence[Numbers], key: str) -> float | None:
    """The usual value in a stage's first steps; None while they are not done."""
    first = [step[key] for step in past if key in step][:FIRST_STEPS]
    return median(first) if len(first) == FIRST_STEPS else None


CAUSES: dict[str, Callable[[Numbers, Sequence[Numbers]], str]] = {
    "no signal": no_signal,
    "cut off": cut_off,
    "verifier failures": verifier_failures,
    "unverifiable": unverifiable,
    "entropy collapse": entropy_collapse,
    "length": length_change,
    "gradient spike": gradient_spike,
}


class Health:
    """Follows the steps of one stage."""

    def __init__(self, earlier: Sequence[Numbers]) -> None:
        """`earlier`: the steps before, of processes that ended."""
        self._past = list(earlier)
        self._warned: dict[str, int] = {}
        self.num_without_signal = 0
        """Steps in a row up to now."""
        for numbers in earlier:
            self._count(numbers)

    def _count(self, numbers: Numbers) -> None:
        self.num_without_signal = self.num_without_signal + 1 if without_signal(numbers) else 0

    def look(self, numbers: Numbers) -> tuple[dict[str, str], list[str]]:
        """What is wrong in the next step, cause -> sentence, and the causes that begin with it:
        that did not hold in any of the LAST_STEPS steps before.
        """
        self._count(numbers)
        step = len(self._past)
        found = {name: cause(numbers, self._past) for name, cause in CAUSES.items()}
        found = {name: sentence for name, sentence in found.items() if sentence}
        begun = [name for name in found if step - self._warned.get(name, -step - 99) > LAST_STEPS]
        self._warned |= dict.fromkeys(found, step)
        self._past.append(dict(numbers))
        return found, begun
