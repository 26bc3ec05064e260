"""The table of `gpu_suite.py`: a line a measurement, and under it a line a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.row_report import COLUMNS, REASONS, Columns
from vibelite.tables import format_table


def suite_table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """All parts and their cases, and below them why cases are missing."""
    lines: list[Sequence[str]] = []
    for name, part in report.items():
        seconds, limit = f"{part['seconds']:.0f}", f"at most {part['limit']:.0f} s"
        lines += [
            [f"{name}: {part['state']}", "", seconds, limit],
            *case_lines(name, part.get("result")),
        ]
    return "\n".join([format_table(Columns.HEADER, lines), *reasons(report)])


def case_lines(name: str, result: Any) -> Iterator[Sequence[str]]:
    """The cases of one part's result, also of one that is not complete."""
    if not isinstance(result, dict):
        return
    if name in COLUMNS:
        for row in result["rows"]:
            case, *cells = COLUMNS[name].line(row)
            yield ["  " + case, *cells]
    elif name.startswith("vllm"):
        yield from vllm_lines(result)
    elif name == "kernel":
        yield from kernel_lines(result)


def vllm_lines(result: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Memory and seconds of a cycle of sleep, sync and wake, and rates of sampling."""
    for name, row in result.items():
        if not isinstance(row, dict):
            continue
        size, note = "", "failed" if "failed" in row else ""
        seconds = row["measured_in_seconds"]
        if "total_seconds" in row:
            seconds = row["total_seconds"]
            if row["used_bytes_awake"] is not None:  # as on a CPU
                size = f"{row['used_bytes_awake'] / 1e9:.2f}"
                note = f"{row['used_bytes_asleep'] / 1e9:.2f} GB asleep"
        elif "mismatch/k3" in row:
            note = f"k3 {row['mismatch/k3']:.1e}"
        elif name.startswith("speed_"):
            note = ", ".join(
                f"{side.removesuffix('_tokens_per_second')} {max(rates):.0f} tokens/s"
                for side, rates in row.items()
                if side.endswith("_tokens_per_second")
            )
        yield ["  " + name, size, f"{seconds:.3f}", note]


def kernel_lines(result: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Workspace and seconds of forward and backward, beside the floor of eight products."""
    for case in result["cases"]:
        floor = case["floor_ms"]["eight_products"]
        for name, row in case["results"].items():
            label = f"  {name}, {case['tokens']} tokens"
            if "step_ms" not in row:
                yield [label, "", "", str(row.get("step", ""))]
                continue
            size = row["step_workspace_mib"] * 2**20 / 1e9
            note = f"{row['step_ms'] / floor:.2f} of 8 products"
            yield [label, f"{size:.2f}", f"{row['step_ms'] / 1e3:.4f}", note]


def reasons(report: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Why a part, or one of its cases, is cut, failed or left out."""
    for name, part in report.items():
        if "failed" in part:
            yield f"{part['state']}: {name}: {part['failed'].splitlines()[0]}"
        result = part.get("result")
        if not isinstance(result, dict):
            continue
        cases = [result, *result.get("rows", []), *result.values()]
        for key in ("left_out", "failed"):
            found = {case[key]: None for case in cases if isinstance(case, dict) and key in case}
            yield from (f"{REASONS[key]}: {name}: {reason}" for reason in found)
