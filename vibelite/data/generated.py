"""Problems from reasoning-gym generators, in splits that are disjoint for any seed and size.

The core of a problem (what makes it the same problem, see `vibelite.data.tasks`) is hashed, and the
hash alone decides the split: 80% of all cores belong to train, 10% to probe, 10% to test. Small
generators repeat themselves, so different seeds alone would not keep test problems out of training.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from vibelite.data.tasks import ANSWER_FORMAT, PREPARED, WORD_PROBLEMS, pose
from vibelite.errors import DataError
from vibelite.recipe.data_section import GeneratedProblems, GeneratedTask
from vibelite.run_dir import derive_seed
from vibelite.types import Problem

Split = Literal["train", "probe", "test"]
# A split that has brought nothing new in so many draws is taken to be exhausted. Among 100 equally
# likely cores, of which one in ten belongs to the split, the last is missed with probability (1 -
# 1/100)^5000 < 1e-21.
PATIENCE = 5000
# How many entries a generator is made with. This one chooses a template for each when it is made.
NUM_ENTRIES = {WORD_PROBLEMS: 1 << 20}
MANY_ENTRIES = 1 << 31


def split_of(dataset: str, core: str) -> Split:
    """The split to which a problem core of a generator belongs, for ever."""
    bucket = int(_digest(f"split/{dataset}/{core}"), 16) % 10
    return "train" if bucket < 8 else "probe" if bucket == 8 else "test"


def generate_problems(source: GeneratedProblems, *, seed: int) -> list[Problem]:
    """`source.num_problems` different problems of the split per sub-domain, in recipe order.

    A smaller set is the beginning of a larger one with the same seed. Raises DataError for unknown
    generators, settings that they refuse, and generators that have too few different problems.
    """
    problems = []
    for subdomain, task in source.tasks.items():
        problems += _generate_task(source, subdomain, task, seed)
    return problems


def _generate_task(
    source: GeneratedProblems, subdomain: str, task: GeneratedTask, seed: int
) -> list[Problem]:
    task_seed = derive_seed(seed, "problems", subdomain, source.split) % 2**32
    generator = _create_generator(subdomain, task, task_seed)
    found: dict[str, Problem] = {}
    draw, last_new = 0, 0
    while len(found) < source.num_problems:
        if draw - last_new > PATIENCE or draw == generator.size:
            raise DataError(
                f"sub-domain {subdomain!r}: {task.dataset} with {task.config or 'its defaults'} "
                f"has {len(found)} different problems in the {source.split} split, and "
                f"{source.num_problems} are asked for; widen its settings or lower num_problems"
            )
        entry = generator[draw]
        draw += 1
        posed = pose(task.dataset, entry)
        if posed.core in found or split_of(task.dataset, posed.core) != source.split:
            continue
        last_new = draw
        content = f"{posed.question} {task.instruction or ANSWER_FORMAT}"
        found[posed.core] = Problem(
            id=f"{subdomain}/{task.dataset}/{_digest(posed.core)}",
            subdomain=subdomain,
            messages=({"role": "user", "content": content},),
            answer=str(entry["answer"]),
            verifier="procedural",
            metadata={"dataset": task.dataset, "facts": posed.facts},
        )
    return list(found.values())


def _create_generator(subdomain: str, task: GeneratedTask, seed: int) -> Any:
    """The reasoning-gym data set; its entries are computed on access."""
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS, create_dataset

    where = f"sub-domain {subdomain!r}"
    if task.dataset not in DATASETS:
        import difflib

        near = difflib.get_close_matches(task.dataset, DATASETS, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise DataError(f"{where}: reasoning-gym has no data set {task.dataset!r}{hint}")
    if own := {"seed", "size"} & task.config.keys():
        raise DataError(
            f"{where}: {', '.join(sorted(own))} of {task.dataset} is set by the run, not the recipe"
        )
    has_own_scorer = DATASETS[task.dataset][0].score_answer is not ProceduralDataset.score_answer
    if has_own_scorer and task.dataset not in (*PREPARED, WORD_PROBLEMS):
        # Their answers are not unique, and some of their scorers evaluate the model's text as code.
        raise DataError(
            f"{where}: {task.dataset} has no single right answer to check against; use one of "
            f"{', '.join(PREPARED)}, {WORD_PROBLEMS}, or a generator without a scorer of its own"
        )
    size = NUM_ENTRIES.get(task.dataset, MANY_ENTRIES)
    try:
        return create_dataset(task.dataset, **task.config, seed=seed, size=size)
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{where}: {task.dataset} refuses {task.config}: {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
