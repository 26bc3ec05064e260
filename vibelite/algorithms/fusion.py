"""Expert fusion: the weighted mean of models, streamed tensor by tensor (VibeThinker report 3.3).

Works on Hugging Face directories of safetensors; no model is ever loaded whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vibelite.errors import RecipeError
from vibelite.storage import CHECKSUMS_NAME

INDEX_NAME = "model.safetensors.index.json"


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_i weights[i] tensors[i], accumulated in float32 (float64 stays), in the first's dtype.

    Tensors that are not floating point (counters, buffers) must be equal.
    """
    first = tensors[0]
    if not first.is_floating_point():
        if any(not torch.equal(first, tensor) for tensor in tensors[1:]):
            raise RecipeError(
                "a non-float tensor differs between the models; they are not of one training run"
            )
        return first.clone()
    accumulate_dtype = torch.promote_types(first.dtype, torch.float32)
    total = torch.zeros_like(first, dtype=accumulate_dtype)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total.to(first.dtype)


def tensor_files(model_dir: Path) -> dict[str, str]:
    """Tensor name -> file name, for a directory of safetensors files; RecipeError if none."""
    index = model_dir / INDEX_NAME
    if index.exists():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = model_dir / "model.safetensors"
    if not single.exists():
        raise RecipeError(
            f"{model_dir}: no model.safetensors; fusion takes whole models in safetensors files: "
            "merge an adapter into its model, and save other formats by save_pretrained"
        )
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single.name)  # noqa: SIM118 (safe_open is no mapping)


def fuse_models(model_dirs: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """Writes sum_i weights[i] model_i to `output`, with the configuration and tokenizer of the
    first model.

    Weights are normalised to sum 1. Memory: one output file and one tensor of every model. Raises
    RecipeError, with nothing written, when the models differ in tensor names or shapes, and
    when a mean is not finite. Tied embeddings are stored, hence averaged, once.
    """
    total_weight = sum(weights)
    if len(model_dirs) != len(weights) or min(weights) < 0 or total_weight <= 0:
        raise ValueError(f"weights {list(weights)} for {len(model_dirs)} models, not all zero")
    normalised = [weight / total_weight for weight in weights]
    require_same_tensors(model_dirs)
    layouts = [tensor_files(model_dir) for model_dir in model_dirs]
    output.mkdir(parents=True, exist_ok=True)
    for path in model_dirs[0].iterdir():
        is_weights = path.suffix == ".safetensors"
        if path.is_file() and not is_weights and path.name != CHECKSUMS_NAME:
            shutil.copy2(path, output / path.name)
    for file_name in sorted(set(layouts[0].values())):
        names = [name for name, file in layouts[0].items() if file == file_name]
        fused = {name: _fuse_tensor(name, model_dirs, layouts, normalised) for name in names}
        save_file(fused, output / file_name, metadata={"format": "pt"})


def require_same_tensors(model_dirs: Sequence[Path]) -> None:
    """RecipeError unless the tensors of all models have the same names and shapes."""
    first, *others = model_dirs
    expected = tensor_shapes(first)
    for other in others:
        found = tensor_shapes(other)
        if different := sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        ):
            name = different[0]
            raise RecipeError(
                f"{other}: {name} has shape {found.get(name)}, in {first} {expected.get(name)} "
                f"(None = there is none; {len(different)} tensors differ); only models of one "
                "shape can be fused"
            )


def tensor_shapes(model_dir: Path) -> dict[str, list[int]]:
    """Tensor name -> shape, from the headers of the files."""
    shapes = {}
    for file_name in sorted(set(tensor_files(model_dir).values())):
        with safe_open(model_dir / file_name, framework="pt") as file:
            names = file.keys()
            shapes |= {name: file.get_slice(name).get_shape() for name in names}
    return shapes


def _fuse_tensor(
    name: str,
    model_dirs: Sequence[Path],
    layouts: Sequence[dict[str, str]],
    weights: Sequence[float],
) -> torch.Tensor:
    tensors = []
    for model_dir, layout in zip(model_dirs, layouts, strict=True):
        with safe_open(model_dir / layout[name], framework="pt") as file:
            tensors.append(file.get_tensor(name))
    fused = weighted_mean(tensors, weights)
    if not fused.isfinite().all():
        broken = [
            str(model_dir)
            for model_dir, tensor in zip(model_dirs, tensors, strict=True)
            if not tensor.isfinite().all()
        ]
        raise RecipeError(
            f"the mean of {name} is not finite (nor is it in {', '.join(broken) or 'none alone'}); "
            "nothing was written"
        )
    return fused
