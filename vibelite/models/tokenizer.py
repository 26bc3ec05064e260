"""Tokenizers, each read once in a process: a large vocabulary takes a second."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Of a model directory, all that a tokenizer may be made of.
PATTERNS = ("tokenizer*", "chat_template*", "special_tokens_map.json", "vocab.*", "merges.txt")
PATTERNS += ("added_tokens.json", "*.model", "config.json")
_known: dict[str, PreTrainedTokenizerBase] = {}


def load_tokenizer(path: Path | str, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub name, read once for all directories whose files for
    it are equal. OSError or ValueError where there is none.
    """
    files = sorted({file for pattern in PATTERNS for file in Path(path).glob(pattern)})
    if not files:
        return AutoTokenizer.from_pretrained(path, revision=revision)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    key = digest.hexdigest()
    if key not in _known:
        options = {} if has_padding(Path(path)) else {"pad_token": None}
        _known[key] = AutoTokenizer.from_pretrained(path, revision=revision, **options)
    return copy.copy(_known[key])  # its settings are the caller's own, its vocabulary is shared


def has_padding(path: Path) -> bool:
    """Whether a tokenizer's settings name a padding token. Where they do not, some of transformers'
    classes add one of their own, for which the model has no embedding.
    """
    settings = path / "tokenizer_config.json"
    if not settings.exists():
        return True  # so old a form says nothing
    files = (settings, path / "special_tokens_map.json")
    return any('"pad_token"' in file.read_text(encoding="utf-8") for file in files if file.exists())
