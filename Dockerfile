# VibeLite with the tested versions, for CPUs and, where the host passes GPUs in, for those: torch from
# PyPI brings CUDA along. Written for Linux x86-64; it has been parsed, never built.
#   docker build -t vibelite .
#   docker run --rm -v "$PWD/runs:/runs" vibelite run recipes/quickstart.yaml --run-dir /runs/quickstart
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
RUN make setup

VOLUME ["/runs", "/cache"]
ENTRYPOINT ["tini", "--", "/app/.venv/bin/vibelite"]
CMD ["--help"]
