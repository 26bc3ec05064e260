"""What keeps a run from learning, with its cause and what to do, from the numbers of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

Numbers = Mapping[str, float]
"""A step's metrics and its counts (`completion_counts`)."""

# Of a stage, what was wrong with it before its first step: cause -> sentence.
WARNINGS_NAME = "warnings.json"

# Shares of completions: cut off, whose verifier failed, and that it could not judge.
CUT_OFF, FAILED, UNVERIFIABLE = 0.9, 0.1, 0.5
# Lengths and entropy, as multiples of those of the first steps; gradient norm, of the usual one.
FEW, MANY, COLLAPSED_ENTROPY, SPIKE = 0.25, 4.0, 0.1, 10.0
FIRST_STEPS, LAST_STEPS = 5, 20
FAILURES = ("timeout", "crash", "exception")
NORM = "optimizer/grad_norm"


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


def of_completions(numbers: Numbers, past: Sequence[Numbers]) -> Iterator[tuple[str, str]]:
    """What is wrong with a step's completions and their verdicts: cause, sentence."""
    total = numbers.get("num_completions", 0)
    share = numbers.get("completion/truncated", 0)
    if share >= CUT_OFF:
        yield (
            "cut off",
            f"{share:.0%} of the completions are cut off before their answer: raise "
            "sampling.max_new_tokens, or train for shorter answers first",
        )
    failed = {kind: numbers.get(f"verify/failures_{kind}", 0) for kind in FAILURES}
    if total and sum(failed.values()) >= FAILED * total:
        kinds = ", ".join(f"{count:.0f} {kind}" for kind, count in failed.items() if count)
        yield (
            "verifier failures",
            f"the verifier failed on {sum(failed.values()):.0f} of {total:.0f} completions "
            f"({kinds}), which count as wrong: see `vibelite samples`",
        )
    unread = numbers.get("verify/unverifiable", 0)
    if total and unread >= UNVERIFIABLE * total:
        yield (
            "unverifiable",
            f"{unread:.0f} of {total:.0f} completions hold nothing that the verifier can judge: "
            "see `vibelite samples --only unverifiable`",
        )
    now, first = numbers.get("completion/mean_tokens"), early(past, "completion/mean_tokens")
    if now is not None and first and not FEW * first < now < MANY * first:
        change = "collapsed" if now < first else "exploded"
        yield (
            "length",
            f"completions {change} from {first:.0f} to {now:.0f} tokens: read them with `vibelite "
            "samples`; the reward may be earned without a solution, or optimizer.lr is too high",
        )


def of_learning(numbers: Numbers, past: Sequence[Numbers]) -> Iterator[tuple[str, str]]:
    """What is wrong with a step's signal, policy and gradient: cause, sentence."""
    # One step without a signal may be chance where a step has few groups.
    if without_signal(numbers) and past and without_signal(past[-1]):
        reason = why_no_signal(numbers)
        yield "no signal", f"no group has rewards that differ, so nothing is learned: {reason}"
    now, first = numbers.get("policy/entropy"), early(past, "policy/entropy")
    if now is not None and first is not None and now < COLLAPSED_ENTROPY * first:
        yield (
            "entropy collapse",
            f"entropy fell from {first:.2g} to {now:.2g} nats per token: completions of a problem "
            "become alike; lower optimizer.lr, or raise sampling.temperature",
        )
    norm = numbers.get(NORM, 0)
    before = [step[NORM] for step in past[-LAST_STEPS:] if NORM in step]
    if len(before) >= LAST_STEPS // 2 and norm > SPIKE * median(before):
        yield (
            "gradient spike",
            f"the gradient's norm is {norm:.3g}, usually {median(before):.3g}: if it happens "
            "again, lower optimizer.lr",
        )


def early(past: Sequence[Numbers], key: str) -> float | None:
    """The usual value in a stage's first steps; None while they are not done."""
    first = [step[key] for step in past if key in step][:FIRST_STEPS]
    return median(first) if len(first) == FIRST_STEPS else None


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
        found = dict(of_learning(numbers, self._past)) | dict(of_completions(numbers, self._past))
        begun = [name for name in found if step - self._warned.get(name, -step - 99) > LAST_STEPS]
        self._warned |= dict.fromkeys(found, step)
        self._past.append(dict(numbers))
        return found, begun
