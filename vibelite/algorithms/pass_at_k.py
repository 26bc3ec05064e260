"""Pass@k from a number of samples per problem. No torch."""

from __future__ import annotations


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k samples drawn without replacement is correct.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language
    Models Trained on Code", eq. 1), as a product of c factors that neither overflows nor cancels.
    Raises ValueError unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct ({num_correct}) must lie in 0..num_samples ({num_samples})")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k ({k}) must lie in 1..num_samples ({num_samples})")
    num_wrong = num_samples - num_correct
    if num_wrong < k:
        return 1.0
    all_wrong = 1.0
    for drawn_from in range(num_wrong + 1, num_samples + 1):
        all_wrong *= 1 - k / drawn_from
    return 1 - all_wrong
