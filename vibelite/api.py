"""The command line from Python: `train`, `plan` and `evaluate`, with results as data frames.

Each call is the command of the same name in a process of its own, so that both do the same, a
stopped run goes on, several GPUs work, and the GPU's memory is free afterwards.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibelite.errors import RecipeError, VibeLiteError
from vibelite.run_dir import read_jsonl

if TYPE_CHECKING:
    from pandas import DataFrame

Problems = str | Path | Iterable[Mapping[str, Any]]
Reward = str | Callable[..., float]
CLAIMS_OF_A_TERMINAL = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")


class Run:
    """A run directory. Its tables are read anew at every access, while the run goes on too."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def results(self) -> DataFrame:
        """A row for every evaluated model and benchmark: `pass_at_1` (0 to 1), its 95% interval,
        `pass_at_k`, `usd`, `seconds` and more.
        """
        from pandas import DataFrame, json_normalize

        path = self.directory / "summary.json"
        results = json.loads(path.read_text())["results"] if path.exists() else []
        return json_normalize(results) if results else DataFrame()

    @property
    def steps(self) -> DataFrame:
        """A row a step: stage, step, and every metric, `seconds.*`, `tokens.*` and `usd`."""
        return self._rows("steps.jsonl")

    @property
    def samples(self) -> DataFrame:
        """Prompts, completions and verdicts that the stages kept."""
        return self._rows("samples.jsonl")

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    def _rows(self, name: str) -> DataFrame:
        from pandas import json_normalize

        paths = sorted(self.directory.glob(f"stages/*/{name}"))
        return json_normalize([row for path in paths for row in read_jsonl(path)])

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        results = self.results
        shown = ["stage", "benchmark", "pass_at_1", "pass_at_1_ci", "seconds", "usd"]
        return results.reindex(columns=shown).to_html(index=False) if len(results) else repr(self)


def train(
    recipe: str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    problems: Problems | None = None,
    reward: Reward | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Runs a recipe, or one that `vibelite init` writes for `problems`; the same call goes on
    after an interruption.

    `problems`: a file, a name on the hub, or rows (mappings, a data frame, a dataset). `reward`:
    FILE.py:FUNCTION or a function of (problem, completion_text); what it uses, it imports itself.
    `options` are those of `vibelite init` (`model`, `gpu`, `prompt`, `max_new_tokens`, ...),
    `settings` those of `run --set`; `run_dir` is runs/ and the recipe file's name where it is not
    given. VibeLiteError with the message of a command that fails.

        run = train(problems=[{"prompt": "2 + 2 = ?", "answer": "4"}, ...], run_dir="runs/sums")
        run.results
    """
    path, directory = _recipe(recipe, run_dir, problems, reward, options)
    _show(["run", str(path), *_settings(settings), "--run-dir", str(directory)])
    return Run(directory)


def plan(
    recipe: str | Path, *, settings: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """What a recipe needs, as `vibelite plan --json` says it: bytes, seconds, USD. `options` are
    those of the command, such as `gpu="rtx4090-24gb"`.
    """
    return json.loads(_run(["plan", str(recipe), "--json", *_settings(settings), *_words(options)]))


def evaluate(model: str | Path, bench: str, **options: Any) -> dict[str, Any]:
    """Pass@1, Pass@k and votes of a model, as `vibelite eval --json` says them."""
    return json.loads(_run(["eval", str(model), "--bench", bench, "--json", *_words(options)]))


def _recipe(
    recipe: str | Path | None,
    run_dir: str | Path | None,
    problems: Problems | None,
    reward: Reward | None,
    options: dict[str, Any],
) -> tuple[Path, Path]:
    """The recipe's file, and the run directory."""
    if recipe is not None:
        if problems is not None or reward is not None or options:
            raise RecipeError("give a recipe, or problems and options to write one from: not both")
        path = Path(recipe)
        return path, Path(run_dir or Path("runs") / path.stem)
    if problems is None or run_dir is None:
        raise RecipeError("without a recipe, give problems and run_dir")
    directory = Path(run_dir)
    inputs = directory.with_name(f"{directory.name}-inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    path = inputs / f"{directory.name}.yaml"
    path.unlink(missing_ok=True)  # of the same call before
    given = {"problems": _table(problems, inputs)}
    if reward is not None:
        given["reward"] = reward if isinstance(reward, str) else _reward_file(reward, inputs)
    _run(["init", str(path), *_words(given | options)])
    return path, directory


def _table(problems: Problems, inputs: Path) -> str:
    """A file of them, or their name."""
    if isinstance(problems, str | Path):
        return str(problems)
    records = getattr(problems, "to_dict", None)  # of a data frame; a dataset yields mappings
    rows = records("records") if records and not isinstance(problems, Mapping) else problems
    path = inputs / "problems.jsonl"
    path.write_text("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def _reward_file(reward: Callable[..., float], inputs: Path) -> str:
    """The function's own text as a file, since verifiers are processes that import it."""
    try:
        text = textwrap.dedent(inspect.getsource(reward))
    except (OSError, TypeError) as error:
        raise RecipeError(f"reward: {error}; give FILE.py:FUNCTION") from None
    if not text.startswith("def "):
        raise RecipeError("reward: write it as a function, `def ...`, or give FILE.py:FUNCTION")
    outside = inspect.getclosurevars(reward)
    if names := sorted({*outside.globals, *outside.nonlocals}):
        raise RecipeError(
            f"reward: {reward.__name__} uses {', '.join(names)} from outside; import or define "
            "that inside the function, or give FILE.py:FUNCTION"
        )
    path = inputs / "reward.py"
    path.write_text(text, encoding="utf-8")
    return f"{path}:{reward.__name__}"


def _settings(settings: Mapping[str, Any] | None) -> list[str]:
    values = {key: json.dumps(value) for key, value in (settings or {}).items()}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options of a command line: True is the option alone, a list is the option repeated."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [option] if each is True else [option, str(each)]
    return words


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "vibelite", *words]


def _run(words: list[str]) -> str:
    """What a command prints on stdout."""
    done = subprocess.run(_command(words), capture_output=True, text=True)
    if done.returncode:
        raise _failure(done.returncode, done.stderr.strip())
    return done.stdout


def _show(words: list[str]) -> None:
    """Runs a command and prints its lines as they come: in a notebook too, where a process's own
    output is not seen. Ctrl-C stops the run as it would in a shell, with everything saved.
    """
    last = ""
    # A notebook claims to be a terminal, but each frame of a bar would be a line of its cell.
    plain = {key: value for key, value in os.environ.items() if key not in CLAIMS_OF_A_TERMINAL}
    with subprocess.Popen(
        _command(words), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=plain
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="")
                last = line.strip() or last
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode:
        raise _failure(process.returncode, last)


def _failure(exit_code: int, message: str) -> VibeLiteError:
    error = VibeLiteError(message or f"exit code {exit_code}")
    error.exit_code = exit_code
    return error
