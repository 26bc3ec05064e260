#!/usr/bin/env bash
# Installs TRL into .venv-trl, for benchmarks/gpu_step_vs_trl.py alone: the package never needs it.
# Its torch, transformers and datasets are those of constraints/cpu.txt, so that both sides of the
# benchmark run on the same libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
trl=trl==1.16.0

# A directory without a working interpreter is what an interrupted attempt leaves.
if ! .venv-trl/bin/python -c 'import sys' 2>/dev/null; then
  rm -rf .venv-trl
  "$(command -v python3.11 || command -v python3)" -m venv .venv-trl
fi
echo "setup: installing $trl into .venv-trl" >&2
if command -v uv >/dev/null; then
  # uv has its own name for pip's directory of local wheels.
  if [[ -n ${PIP_FIND_LINKS:-} && -z ${UV_FIND_LINKS:-} ]]; then
    export UV_FIND_LINKS=$PIP_FIND_LINKS
  fi
  uv pip install --quiet --python .venv-trl/bin/python -c constraints/cpu.txt torch "$trl" jinja2
else
  .venv-trl/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    -c constraints/cpu.txt torch "$trl" jinja2
fi
# Compiles the modules that the benchmark loads.
env -u PYTHONDONTWRITEBYTECODE .venv-trl/bin/python -W ignore -c \
  'from trl import GRPOTrainer, SFTTrainer'
