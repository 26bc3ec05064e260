"""Lines where nobody watches, a bar where somebody does."""

import io
import time

from rich.console import Console

from vibelite.telemetry.progress import ProgressLine
from vibelite.types import StepRecord


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def step_record(step, stage="mgpo", usd=None):
    tokens = {"generated": 0, "trained": 200}
    return StepRecord(stage, step, {"reward/mean": 0.5}, {}, tokens, {}, usd_so_far=usd)


def written(console):
    return console.file.getvalue()


def test_without_a_terminal_nothing_but_lines_is_written(capsys):
    console = Console(file=io.StringIO(), force_terminal=False)
    shown = ProgressLine("mgpo", 3, console)
    shown.expect(8)
    shown.sampled(100, 2.0)
    shown.step(step_record(1, usd=1.0), 4.0)
    shown.work("mgpo load", 2.0, 1.5)
    assert written(console) == ""
    lines = "mgpo 1  reward 0.5  4 s  50 tokens/s  $1.00 so far\nmgpo load  2 s  $1.50 so far\n"
    assert capsys.readouterr() == ("", lines)


def test_a_terminal_shows_speed_within_a_step_and_what_is_left_after_it():
    console = terminal()
    shown = ProgressLine("mgpo", 50, console)
    shown.expect(64)
    shown.sampled(100, 2.0)
    assert "mgpo" in written(console)
    assert "0/50 1/64 completions  50 tokens/s" in written(console)
    for step in (1, 2, 3):
        shown.step(step_record(step, usd=step), 4.0)
    assert "3/50 3 min 08 s left  $3.00 so far" in written(console)
    shown.close()


def test_a_stage_without_steps_tells_its_completions_and_their_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = terminal()
    shown = ProgressLine("evaluate", None, console)
    shown.expect(4)
    for tokens in (30, 60):
        now[0] += 10
        shown.sampled(tokens, now[0] - 100)
    assert "1/4 1/4 completions  3 tokens/s  30 s left" in written(console)
    assert "2/4 2/4 completions  3 tokens/s  20 s left" in written(console)
    shown.close()


def test_the_bar_goes_away_with_the_last_step_and_leaves_the_cursor():
    console = terminal()
    shown = ProgressLine("sft", 2, console)
    shown.step(step_record(1, "sft"), 1.0)
    assert "\x1b[?25l" in written(console), "hidden while the bar is there"
    shown.step(step_record(2, "sft"), 1.0)
    assert written(console).endswith("\x1b[2K") and "\x1b[?25h" in written(console)


def test_model_names_are_no_markup():
    console = terminal()
    shown = ProgressLine("[bold]x[/]", 9, console)
    shown.step(step_record(1, "[red]y"), 1.0)
    assert "[bold]x[/]" in written(console)
    shown.close()
