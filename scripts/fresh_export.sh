#!/usr/bin/env bash
# Does an export answer elsewhere? Makes a new virtual environment with torch and transformers alone
# (versions of constraints/cpu.txt), loads the export there, and compares the greedy tokens of an
# answer with those of .venv.
#   scripts/fresh_export.sh runs/quickstart/export
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export_dir=$(cd "${1:?usage: scripts/fresh_export.sh EXPORT_DIRECTORY}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/answer.py" <<'PROGRAM'
import importlib.util
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

print("with vibelite" if importlib.util.find_spec("vibelite") else "alone", file=sys.stderr)
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is 1 + 1?"}],
    add_generation_prompt=True,
    return_tensors="pt",
    return_dict=True,
)
tokens = model.generate(**inputs, do_sample=False, min_new_tokens=16, max_new_tokens=32)
print(tokens[0].tolist())
PROGRAM

python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --no-compile --disable-pip-version-check \
  -c "$root/constraints/cpu.txt" torch transformers
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
cd "$work"
"$work/venv/bin/python" answer.py "$export_dir" > fresh
"$root/.venv/bin/python" answer.py "$export_dir" > here
cat fresh
if ! cmp -s fresh here; then
  cat here
  echo "the tokens differ" >&2
  exit 1
fi
echo "the same greedy tokens in a fresh environment"
