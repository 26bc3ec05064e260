"""Scores that others published, to print beside a run's own. Percent, Pass@1."""

from __future__ import annotations

SOURCE = "VibeThinker-1.5B report (arXiv 2511.06221), tables 2 and 3"
_COLUMNS = ("aime24", "aime25", "hmmt25", "math500", "lcb-v5", "lcb-v6", "gpqa")
# None = not reported.
_SCORES: dict[str, tuple[float | None, ...]] = {
    "Qwen2.5-Math-1.5B (base)": (6.7, 4.3, 0.6, 58.5, 0.0, 0.0, 16.4),
    "VibeThinker-1.5B": (80.3, 74.4, 50.4, 95.0, 55.9, 51.1, 46.7),
    "DeepScaleR-1.5B": (43.1, 31.5, 19.0, 87.8, None, 16.3, 20.5),
    "DeepSeek-R1-Distill-Qwen-1.5B": (28.5, 22.7, 13.6, 82.9, 16.8, 12.8, 15.9),
    "FastCuRL-v3-1.5B": (49.6, 34.4, 21.5, 90.5, None, 20.6, 23.2),
    "ProRL-1.5B": (48.1, 33.3, 20.5, 91.9, 23.8, None, 41.8),
    "Qwen3-1.7B": (48.3, 36.8, 23.6, 93.4, 33.2, 26.9, 40.1),
    "SmolLM3-3B": (None, 36.7, 26.0, 87.5, 27.6, 29.1, 41.7),
    "GPT-OSS-20B-Medium": (80.0, 72.1, None, None, None, 54.9, 66.0),
    "Magistral-Medium-2506": (73.6, 64.9, None, None, 59.4, 50.3, 70.8),
    "Claude Opus 4 (thinking)": (76.0, 69.2, None, None, 56.6, None, 79.6),
    "MiniMax-M1": (83.3, 74.6, None, None, 62.3, None, 69.2),
    "DeepSeek-R1-0120": (79.8, 70.0, 41.7, None, 65.9, None, 71.5),
}


def published_scores(benchmark: str) -> dict[str, float]:
    """Model -> Pass@1 (0..1) on `benchmark`; empty for others than the report's."""
    if benchmark not in _COLUMNS:
        return {}
    column = _COLUMNS.index(benchmark)
    return {
        model: round(score / 100, 4)
        for model, scores in _SCORES.items()
        if (score := scores[column]) is not None
    }
