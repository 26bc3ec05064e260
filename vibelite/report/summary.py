"""summary.json, the results of a run in a fixed format, and the tables on the console."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vibelite.run_dir import read_json, write_json_atomic
from vibelite.units import percent

# What every row has, in this order; other keys of results.json follow. Scripts of others rely on
# the names.
ROW_KEYS = (
    "stage",
    "benchmark",
    "num_problems",
    "num_samples",
    "pass_at_1",
    "pass_at_1_ci",
    "pass_at_k",
    "usd",
    "seconds",
)


def write_summary(run_dir: Path) -> dict[str, Any]:
    """Gathers the results of all finished evaluate stages into `summary.json`; what it holds."""
    summary = {"results": collect_results(run_dir)}
    write_json_atomic(run_dir / "summary.json", summary)
    return summary


def collect_results(run_dir: Path) -> list[dict[str, Any]]:
    """Rows in the order of the pipeline.

    Where several evaluate stages tested the same model on the same benchmark, the row of the last
    one stands at the place of the first.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted((run_dir / "stages").glob("*/results.json")):
        if not (path.parent / "status.json").exists():
            continue
        for row in read_json(path):
            ordered = {key: row[key] for key in ROW_KEYS}
            rows[row["stage"], row["benchmark"]] = ordered | row
    return list(rows.values())


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a table per benchmark, the models with intervals and costs, and one of sub-domains
    where there are several.

    Names are printed as plain text: rich markup in them does nothing.
    """
    console = console or Console()
    results = summary["results"]
    if not results:
        console.print("no evaluate stage has finished yet: nothing to tabulate")
        return
    for benchmark in dict.fromkeys(row["benchmark"] for row in results):
        rows = [row for row in results if row["benchmark"] == benchmark]
        console.print(model_table(benchmark, rows))
        names = {name for row in rows for name in row.get("subdomains", {})}
        if len(names) > 1:  # of a single one the first table has told everything
            console.print(subdomain_table(rows))


def model_table(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per model: Pass@1 with its interval, Pass@k, completions cut off by the token limit,
    time and money of the stage that made it.
    """
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("Pass@1 % [95%]", lambda row: with_interval(row["pass_at_1"], row["pass_at_1_ci"])),
    ]
    for k in dict.fromkeys(k for row in rows for k in row["pass_at_k"]):
        columns.append((f"Pass@{k} %", lambda row, k=k: percent(row["pass_at_k"].get(k))))
    columns.append(("cut off %", lambda row: percent(row.get("truncated"))))
    columns.append(("s", lambda row: number(row["seconds"], ".1f")))
    if any(row["usd"] is not None for row in rows):
        columns.append(("$", lambda row: number(row["usd"], ".4f")))
    counts = f"{rows[0]['num_problems']} problems, {rows[0]['num_samples']} samples each"
    if data := rows[0].get("data"):
        counts += f", sha256 {data['sha256'][:12]}"
    return make_table(rows, columns, title=f"{benchmark}: {counts}")


def subdomain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per model, one column per sub-domain: Pass@1 / Pass@k in percent."""
    names = dict.fromkeys(name for row in rows for name in row.get("subdomains", {}))
    ks = dict.fromkeys(k for row in rows for k in row["pass_at_k"])
    title = " / ".join(["Pass@1", *(f"Pass@{k}" for k in ks)])

    def cell(row: Mapping[str, Any], name: str) -> str:
        scores = row.get("subdomains", {}).get(name)
        if scores is None:
            return "-"
        values = [scores["pass_at_1"], *(scores["pass_at_k"].get(k) for k in ks)]
        return " / ".join(map(percent, values))

    columns = [(name, lambda row, name=name: cell(row, name)) for name in names]
    return make_table(rows, columns, title=f"{title} by sub-domain, %")


def make_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]],
    *,
    title: str,
) -> Table:
    """A table with the model's name in the first column."""
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for header, _ in columns:
        table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(row["stage"]), *(Text(cell(row)) for _, cell in columns))
    return table


def with_interval(mean: float, interval: Sequence[float]) -> str:
    """Mean and both ends in percent."""
    return f"{percent(mean)} [{percent(interval[0])}, {percent(interval[1])}]"


def number(value: float | None, form: str) -> str:
    """`value` in the format `form`; "-" where unknown."""
    return "-" if value is None else format(value, form)
