"""Expert fusion: the specialists' mean, with a lineage file and the plain tail average as
a control.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from vibelite.algorithms.fusion import fuse_models, require_same_tensors
from vibelite.errors import RecipeError
from vibelite.models.adapter import is_adapter, mean_adapter, write_adapter
from vibelite.models.exchange import configuration
from vibelite.models.tokenizer import load_tokenizer
from vibelite.recipe.stage_section import FuseStage, ProbeStage
from vibelite.run_dir import REMAKE_MODEL, new_directory, write_json_atomic
from vibelite.stages.context import StageContext
from vibelite.storage import require_unchanged


def run(stage: FuseStage, context: StageContext) -> None:
    """Leaves `checkpoints/fused` and, when asked for, `checkpoints/tail-average`, each with
    lineage.json.
    """
    specialists = context.models_of(stage.start_from)
    subdomains = [name.removeprefix(f"{stage.start_from}-") for name in specialists]
    weights = [1.0] * len(subdomains)
    root, jobs = context.stage_dir.checkpoints, {}
    if stage.tail_average:
        tail = sft_checkpoints(stage, context)[-stage.tail_average :]
        names, target = [path.name for path in tail], root / "tail-average"
        jobs["tail-average"] = (tail, names, [1.0] * len(tail), target)
    jobs[stage.name] = (list(specialists.values()), subdomains, weights, root / "fused")
    with context.meter.span("fuse"), ThreadPoolExecutor() as pool:
        # Side by side: one thread hashes and syncs a file, whatever the machine has.
        written = [pool.submit(write_fused, *job) for job in jobs.values()]
        for job in written:
            job.result()
    context.recorder.record_work("fuse")
    context.stage_dir.finish(models={name: job[-1] for name, job in jobs.items()})


def sft_checkpoints(stage: FuseStage, context: StageContext) -> list[Path]:
    """All checkpoints that the probe chose from, in order of training."""
    probe = context.recipe.stage_named(stage.start_from)
    assert isinstance(probe, ProbeStage), "validated with the recipe"
    return context.run.find_stage(probe.start_from).kept_checkpoints()


def write_fused(
    sources: Sequence[Path], names: Sequence[str], weights: Sequence[float], target: Path
) -> None:
    """The weighted mean of `sources` in `target`, whole or not at all, with what it was made of.
    RecipeError for models of which there is no mean.

    That of adapters on one model is an adapter too: the one that merges to the mean of their merged
    weights.
    """
    for source in sources:
        require_unchanged(source, remedy=REMAKE_MODEL)
    if not all(map(is_adapter, sources)):
        require_same_tensors(sources)
        require_alike(sources)
    total = sum(weights)
    lineage = {
        "method": "weighted mean in float32",
        "sources": [
            {
                "name": name,
                "checkpoint": f"{path.parent.parent.name}/{path.name}",
                "weight": weight / total,
            }
            for name, path, weight in zip(names, sources, weights, strict=True)
        ],
    }
    with new_directory(target) as temporary:
        if all(map(is_adapter, sources)):
            write_adapter(mean_adapter(sources, weights), temporary)
        else:
            fuse_models(sources, weights, temporary)
        write_json_atomic(temporary / "lineage.json", lineage)


def require_alike(models: Sequence[Path]) -> None:
    """RecipeError where models have other configurations, types aside, or give other ids to
    tokens: the mean of their weights would mean nothing. Warns of another chat template.
    """
    first, *others = models
    expected, tokenizer = configuration(first / "config.json"), stored_tokenizer(first)
    for other in others:
        found = configuration(other / "config.json")
        keys = (expected.keys() | found.keys()) - {"dtype", "torch_dtype"}
        different = sorted(key for key in keys if expected.get(key) != found.get(key))
        if different:
            key = different[0]
            raise RecipeError(
                f"{other}: its configuration differs from that of {first} in "
                f"{', '.join(different)} ({key}: {found.get(key)}, there {expected.get(key)}); "
                "only models of one configuration can be fused"
            )
        own = stored_tokenizer(other)
        vocabularies = [known.get_vocab() if known else {} for known in (tokenizer, own)]
        if vocabularies[0] != vocabularies[1]:
            raise RecipeError(
                f"{other}: its tokenizer gives other ids to tokens than that of {first}; the mean "
                "of their embeddings would mean nothing"
            )
        if tokenizer and own and tokenizer.chat_template != own.chat_template:
            print(
                f"warning: {other} has another chat template than {first}, whose is kept",
                file=sys.stderr,
            )


def stored_tokenizer(model: Path) -> PreTrainedTokenizerBase | None:
    """None for a directory without one."""
    is_there = any(model.glob("tokenizer*")) or any(model.glob("vocab*"))
    return load_tokenizer(model) if is_there else None
