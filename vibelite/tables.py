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
        if len(result["subdomains"]) > 1
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
    return "\n".join([title, format_table(header, rows), *evaluation_notes(result)])


def evaluation_notes(result: dict[str, Any]) -> list[str]:
    """The lines under the table: how it was sampled, on what, and what others have scored."""
    num_samples = result["num_samples"]
    parts = [f"{num_samples} samples per problem, so Pass@1 is avg@{num_samples}"]
    if result["pass_at_1_sampling_error"] is not None:
        parts.append(f"other samples would change it by {result['pass_at_1_sampling_error']:.3f}")
    lines = [", ".join(parts)]
    if result["cons_at_n"] is not None:
        low, high = result["cons_at_n_ci"]
        lines.append(
            f"cons@{num_samples} {result['cons_at_n']:.3f} ({low:.3f} to {high:.3f}), the majority "
            f"of the answers; {result['num_ties']} problems with a tie count in part"
        )
    if "clr" in result:
        lines.append(clr_note(result["clr"]))
    lines.append(
        f"{result['truncated']:.1%} cut off, {result['unverifiable']:.1%} unverifiable, "
        f"{result['mean_tokens']:.1f} tokens on average"
    )
    if result["verifier_failures"]:
        lines.append(f"the verifier failed on {result['verifier_failures']} samples")
    if "letters" in result:
        shares = ", ".join(f"{letter} {share:.1%}" for letter, share in result["letters"].items())
        lines.append(f"letters chosen: {shares}")
    return [*lines, data_note(result["data"]), *published_notes(result.get("published"))]


def clr_note(clr: dict[str, Any]) -> str:
    """The vote weighted by claim-level reliability, and whether right solutions are the more
    reliable ones.
    """
    low, high = clr["clr_at_n_ci"]
    means = [
        "-" if mean is None else f"{mean:.3f}"
        for mean in (clr["reliability_of_correct"], clr["reliability_of_others"])
    ]
    return (
        f"CLR@{clr['n']} {clr['clr_at_n']:.3f} ({low:.3f} to {high:.3f}), votes weighted by "
        f"{clr['num_claims']} claims; mean reliability of right solutions {means[0]}, of others "
        f"{means[1]}; {clr['num_ties']} ties in {clr['num_repeats']} votes a problem; "
        f"{clr['num_cut_off']} statements and judgements cut off"
    )


def data_note(data: dict[str, Any]) -> str:
    """The problems a score was measured on."""
    name, window = data.get("name"), data.get("window")
    parts = [f"{data['num_problems']} problems", f"sha256 {data['sha256'][:16]}"]
    if name:
        parts[0] = f"{name}: {data['num_problems']} of {data['official_num_problems']} problems"
        parts.append(f"from {data['from']}")
    if window:
        parts.append(f"contests of {window[0]} to {window[1]}")
    return ", ".join(parts)


def published_notes(published: dict[str, Any] | None) -> list[str]:
    """Published scores, best first."""
    if not published:
        return []
    scores = sorted(published["pass_at_1"].items(), key=lambda item: -item[1])
    return [
        f"published Pass@1, {published['source']}:",
        *(f"  {score:.3f}  {model}" for model, score in scores),
    ]


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
