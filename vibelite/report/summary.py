"""summary.json, the results of a run in a fixed format, and the tables on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vibelite.report.headline import find_problems
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.tables import format_table
from vibelite.telemetry.run_state import read_state
from vibelite.units import duration, percent, usd


def write_summary(run_dir: Path) -> dict[str, Any]:
    """Writes summary.json: what became of the run, what was wrong with it, and all results."""
    results = collect_results(run_dir)
    summary = {
        "state": asdict(read_state(run_dir)),
        "health": [asdict(finding) for finding in find_problems(run_dir, results)],
        "results": results,
    }
    write_json_atomic(run_dir / "summary.json", summary)
    return summary


def collect_results(run_dir: Path) -> list[dict[str, Any]]:
    """Rows in the order of the pipeline; of a model that several evaluate stages tested on the same
    benchmark, the last at the place of the first.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted((run_dir / "stages").glob("*/results.json")):
        if not (path.parent / "status.json").exists():
            continue
        for row in read_json(path):
            rows[row["stage"], row["benchmark"]] = row
    return list(rows.values())


def print_summary(summary: Mapping[str, Any]) -> None:
    """Prints a table of models per benchmark, and one of sub-domains where there are several."""
    results = summary["results"]
    if not results:
        print("no evaluate stage has finished yet: nothing to tabulate")
    for benchmark in dict.fromkeys(row["benchmark"] for row in results):
        rows = [row for row in results if row["benchmark"] == benchmark]
        print(f"{model_table(benchmark, rows)}\n")
        names = dict.fromkeys(name for row in rows for name in row.get("subdomains", {}))
        if len(names) > 1:  # of a single one the first table has told everything
            print(f"{subdomain_table(rows, list(names))}\n")


def model_table(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per model: its scores, and time and money of the stage that made it."""
    ks = dict.fromkeys(k for row in rows for k in row["pass_at_k"])
    is_priced = any(row["usd"] is not None for row in rows)
    header = ["model", "Pass@1 % [95%]", *(f"Pass@{k} %" for k in ks), "cut off %", "time"]
    cells = [
        [
            row["stage"],
            with_interval(row["pass_at_1"], row["pass_at_1_ci"]),
            *(percent(row["pass_at_k"].get(k)) for k in ks),
            percent(row.get("truncated")),
            duration(row["seconds"]),
            *([usd(row["usd"])] if is_priced else []),
        ]
        for row in rows
    ]
    counts = f"{rows[0]['num_problems']} problems, {rows[0]['num_samples']} samples each"
    if data := rows[0].get("data"):
        counts += f", sha256 {data['sha256'][:12]}"
    table = format_table([*header, *(["cost"] if is_priced else [])], cells)
    return f"{benchmark}: {counts}\n{table}"


def subdomain_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """One line per model, one column per sub-domain: Pass@1 / Pass@k in percent."""
    ks = dict.fromkeys(k for row in rows for k in row["pass_at_k"])

    def cell(scores: Mapping[str, Any]) -> str:
        at_k = scores.get("pass_at_k", {})
        return " / ".join(map(percent, [scores.get("pass_at_1"), *map(at_k.get, ks)]))

    cells = [
        [row["stage"], *(cell(row["subdomains"].get(name, {})) for name in names)] for row in rows
    ]
    title = " / ".join(["Pass@1", *(f"Pass@{k}" for k in ks)])
    return f"{title} by sub-domain, %\n{format_table(['model', *names], cells)}"


def with_interval(mean: float, interval: Sequence[float]) -> str:
    """Mean and both ends in percent."""
    return f"{percent(mean)} [{percent(interval[0])}, {percent(interval[1])}]"
