"""One self-contained HTML page about one or several runs. It loads nothing; its content security
policy allows no script but its own; the template escapes all text of models and recipes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vibelite.report.compare import HEADER, Difference, compare_runs, difference_cells, verdicts_of
from vibelite.report.cost import add_up, stage_costs
from vibelite.report.curves import stage_charts
from vibelite.report.run_data import RunData, StageData, load_run
from vibelite.run_dir import write_text_atomic
from vibelite.telemetry.run_state import ago
from vibelite.units import duration, percent, short_number, usd


def write_report(run_dirs: Sequence[Path], output: Path) -> Path:
    """Writes the page about `run_dirs`, whatever exists of them, to `output`; returns `output`."""
    write_text_atomic(output, page_of(run_dirs))
    return output


def page_of(run_dirs: Sequence[Path], *, is_live: bool = False) -> str:
    """The page about `run_dirs` as text; a live one asks its server for what is new."""
    names = unique_names([path.resolve().name for path in run_dirs])
    runs = [load_run(path, name) for path, name in zip(run_dirs, names, strict=True)]
    differences = compare_runs(dict(zip(names, run_dirs, strict=True)))
    said = {
        run.name: verdicts_of(path, run.results) for run, path in zip(runs, run_dirs, strict=True)
    }
    return render(runs, said, differences, is_live=is_live)


def unique_names(names: Sequence[str]) -> list[str]:
    """`names`, where a name that occurs again is numbered: run, run (2)."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [
        name if count == 1 else f"{name} ({count})"
        for name, count in zip(names, counts, strict=True)
    ]


def render(
    runs: Sequence[RunData],
    verdicts: Mapping[str, Sequence[str]],
    differences: Sequence[Difference],
    *,
    is_live: bool,
) -> str:
    """The page as text; `verdicts`: of each run by its name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vibelite.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "short": lambda value: "-" if value is None else short_number(float(value)),
        "duration": lambda value: "-" if value is None else duration(value),
        "usd": usd,
        "ago": ago,
        "sentence": sentence,
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    }
    style, script = (
        Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))
        for name in ("report.css", "report.js")
    )
    return environment.get_template("template.html.j2").render(
        title=" vs ".join(run.name for run in runs),
        runs=runs,
        verdicts=verdicts,
        is_live=is_live,
        costs={run.name: stage_costs(run.ledger) for run in runs},
        totals={run.name: add_up("all", run.ledger) for run in runs},
        benchmarks=benchmark_blocks(runs),
        difference_header=HEADER,
        differences=difference_cells(differences),
        stages=list(stage_charts(runs)),
        stage_state=stage_state,
        expected_usd=expected_usd,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def benchmark_blocks(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Per benchmark the rows of all runs, the k of its Pass@k and its sub-domains."""
    labelled = [(run.name, row) for run in runs for row in run.results]
    blocks = []
    for name in dict.fromkeys(row["benchmark"] for _, row in labelled):
        rows = [
            {"run": run, "subdomains": {}, "truncated": None, "mean_tokens": None, **row}
            for run, row in labelled
            if row["benchmark"] == name
        ]
        ks = dict.fromkeys(k for row in rows for k in row["pass_at_k"])
        subdomains = dict.fromkeys(key for row in rows for key in row["subdomains"])
        blocks.append(
            {
                "name": name,
                "rows": rows,
                "ks": list(ks),
                "subdomains": list(subdomains) if len(subdomains) > 1 else [],
                "published": published_table(rows),
            }
        )
    return blocks


def sentence(text: str) -> str:
    """With a capital at its beginning, unless that is a setting or a path."""
    first = text.split(" ")[0]
    return text if "." in first or "/" in first else text[:1].upper() + text[1:]


def published_table(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The rows of a benchmark among the scores that others published on it, best first; None where
    none are known.
    """
    published = next((row["published"] for row in rows if row.get("published")), None)
    if published is None:
        return None
    lines = [(model, score, False) for model, score in published["pass_at_1"].items()]
    lines += [(f"{row['run']}: {row['stage']}", row["pass_at_1"], True) for row in rows]
    data = rows[0].get("data") or {}
    known = data.get("official_num_problems", data.get("num_problems"))
    own = f"{rows[0]['num_problems']} of its {known} problems" if known else "this run's problems"
    return {
        "lines": sorted(lines, key=lambda line: -line[1]),
        "note": f"Published: {published['source']}. Bold: this run, on {own}, "
        f"{rows[0]['num_samples']} samples each.",
    }


def stage_state(stage: StageData) -> str:
    """How far a stage is, in words."""
    if stage.is_finished:
        return "done"
    if not stage.is_started:
        return "not started"
    if not stage.steps:
        return "started"
    last = stage.steps[-1]["step"]
    return f"step {last} of {stage.total_steps}" if stage.total_steps else f"step {last}"


def expected_usd(run: RunData) -> str:
    """What an unfinished run will have cost when its present stage ends; "" where unknown."""
    begun = [stage for stage in run.stages if stage.steps]
    if not begun or begun[-1].is_finished:
        return ""
    expected = begun[-1].steps[-1].get("usd_at_end_of_stage")
    if expected is None:
        return ""
    total, low, high = map(usd, expected)
    return f"expected after {begun[-1].name}: {total} ({low} to {high})"
