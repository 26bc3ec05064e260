"""The only reasons for which a test may be skipped; any other skip is a failure.

Every reason is something of the machine, or of the implementation that a second pass of the same
tests chooses. A test is never skipped for a library that the extra `dev` brings.
"""

import re

REASONS = (
    # trackio bounds pillow below the version that the other extras are tested with.
    # W&B and MLflow bring much that only they need.
    r"(trackio|wandb) needs the extra track",
    r"mlflow needs the extra mlflow",
    # Public benchmark files, which are not part of the repository.
    r"VIBELITE_BENCHMARK_DATA is not set",
    r"no Chromium on this machine",
    r"needs root",
    r"only root may mount a small disk",
    r"no small disk can be mounted here",
    r"no Python 3.11 that an ordinary user may run",
    r"needs a GPU",
    # The kernels' tests once more, under Triton's interpreter.
    r"nothing here depends on the implementation",
    r"in float64 there is no kernel",
    r"the interpreter compiles nothing",
    # Where vLLM's build for the CPU is installed, or unsloth is, in place of `dev`.
    r"could not import '(triton|bitsandbytes)'.*",
    r"nothing is missing here",
    r"the extra smollm is not installed",
)
_PATTERN = re.compile("|".join(f"(?:{reason})" for reason in REASONS))


def is_allowed(reason: str) -> bool:
    """Whether a skip for this reason, as pytest gives it, is in the list."""
    return _PATTERN.match(reason.removeprefix("Skipped: ")) is not None
