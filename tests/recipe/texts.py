"""A small valid recipe, and how tests spoil single lines of it."""

from pathlib import Path

RECIPE = """\
name: small
seed: 0
model: {source: tiny}
data:
  problems:
    train:
      source: reasoning_gym
      split: train
      num_problems: 100
      tasks: &tasks
        number: {dataset: gcd}
        sums: {dataset: chain_sum, config: {max_terms: 3}}
    probe: {source: reasoning_gym, split: probe, num_problems: 20, tasks: *tasks}
    test: {source: reasoning_gym, split: test, num_problems: 20, tasks: *tasks}
  traces:
    traces:
      source: worked
      problems: train
stages:
  - kind: sft
    num_steps: 10
    checkpoint_every: 5
    optimizer: {lr: 1e-3}
  - kind: probe
    sampling: &sampling {max_new_tokens: 32}
  - kind: fuse
    tail_average: 0
  - kind: mgpo
    num_steps: 5
    problems: train
    sampling: *sampling
    optimizer: {lr: 1e-6}
  - kind: evaluate
    benchmarks: [test]
    models: [base, sft]
    sampling: *sampling
  - kind: export
"""


def write_recipe(directory: Path, **lines: str) -> Path:
    """Writes RECIPE with lines replaced by number: write_recipe(d, line_2="seed: one")."""
    text: list[str] = list(RECIPE.splitlines())
    for key, line in lines.items():
        text[int(key.removeprefix("line_")) - 1] = line
    path = directory / "recipe.yaml"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path
