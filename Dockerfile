# VibeLite with the tested versions, for Linux x86-64; with vLLM and all that an NVIDIA GPU needs (12 GB), or
# without (4 GB). It has been parsed, never built; its `make setup-gpu` has been run by itself.
#   docker build -t vibelite .                            docker build -t vibelite --build-arg SETUP=setup .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/runs" vibelite \
#     run recipes/qwen2p5_0p5b.yaml --run-dir /runs/qwen
FROM python:3.12-slim-bookworm

# make, a C compiler for one dependency, and an init that hands signals on: a run saves on SIGTERM.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git make tini \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 vibelite \
    && mkdir /app /runs /cache \
    && chown vibelite:vibelite /app /runs /cache

USER vibelite
WORKDIR /app
ENV HF_HOME=/cache/huggingface PIP_NO_CACHE_DIR=1
COPY --chown=vibelite:vibelite pyproject.toml README.md Makefile ./
COPY --chown=vibelite:vibelite constraints constraints
COPY --chown=vibelite:vibelite scripts scripts
COPY --chown=vibelite:vibelite vibelite vibelite
COPY --chown=vibelite:vibelite recipes recipes
ARG SETUP=setup-gpu
RUN make $SETUP

VOLUME ["/runs", "/cache"]
ENTRYPOINT ["tini", "--", "/app/.venv/bin/vibelite"]
CMD ["--help"]
