"""Results of single commands as plain text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first to the left, all others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def line_text(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line_text(header), rule, *map(line_text, rows)])


def evaluation_table(title: str, result: dict[str, Any]) -> str:
    """What `vibelite eval` prints: a row per sub-domain and one for all, fractions from 0 to 1."""
    ks = list(result["pass_at_k"])
    header = ["sub-domain", "problems", "Pass@1", "95% interval", *(f"Pass@{k}" for k in ks)]
    rows = [
        [
            name,
            str(part["num_problems"]),
            f"{part['pass_at_1']:.3f}",
            "",
            *(f"{part['pass_at_k'][k]:.3f}" for k in ks),
        ]
        for name, part in result["subdomains"].items()
    ]
    low, high = result["pass_at_1_ci"]
    rows.append(
        [
            "all",
            str(result["num_problems"]),
            f"{result['pass_at_1']:.3f}",
            f"{low:.3f} to {high:.3f}",
            *(f"{result['pass_at_k'][k]:.3f}" for k in ks),
        ]
    )
    samples = f"{result['num_samples']} samples per problem, {result['truncated']:.1%} cut off"
    return f"{title}\n{format_table(header, rows)}\n{samples}"


def probe_table(result: dict[str, Any]) -> str:
    """What `vibelite probe` prints: Pass@k of each model by sub-domain; * marks the specialists."""
    subdomains = list(result["specialists"])

    def cell(score: dict[str, Any], subdomain: str) -> str:
        mark = "*" if result["specialists"][subdomain] == score["model"] else " "
        return f"{score['pass_at_k'][subdomain]:.3f}{mark}"

    rows = [
        [score["model"], *(cell(score, subdomain) for subdomain in subdomains)]
        for score in result["models"]
    ]
    title = f"Pass@{result['k']} from {result['num_samples']} samples (* = specialist)"
    return f"{title}\n{format_table(['model', *subdomains], rows)}"
