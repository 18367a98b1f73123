# make train: set up and watch a tiny Qwen3 learn.   make test: set up and run the tests.   make plan: set up and plan the
# run on 48 GPUs.   make sglang: set up SGLang for the CPU.   make check: the whole check.   make fmt: format.   All are
# idempotent.
SHELL := /bin/bash
VENV ?= .venv
# Any Python from 3.11 on; the first that is found.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
# Tests run in so many processes; a file's tests stay in one of them, which has compiled what they share.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
PYTEST := $(VENV)/bin/python -m pytest -n $(WORKERS)

# SGLang's own Python: its pins are for 3.11.
SGLANG_PYTHON ?= python3.11
SGLANG_PIP := $(VENV)-sglang/bin/python -m pip install --quiet --disable-pip-version-check
SGLANG_ITSELF := ^(sglang|sglang-router|xgrammar)==

.PHONY: train test slow soak lint fmt check plan sglang tiny clean

train: $(VENV)/.train
	JAX_PLATFORMS=cpu $(VENV)/bin/python scripts/train.py --config configs/tiny.py $(ARGS)

test: $(VENV)/.test
	JAX_PLATFORMS=cpu $(PYTEST) $(ARGS)

# The second tier: what .ci/run runs beside `make test`. Exit code 5: no such test among those that ARGS names.
slow: $(VENV)/.test
	JAX_PLATFORMS=cpu $(PYTEST) -m "slow and not alone" $(ARGS) || [ $$? -eq 5 ]
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -m "slow and alone" $(ARGS) || [ $$? -eq 5 ]

# The third tier: hours. Its result is kept with date, commit and machine.
soak: $(VENV)/.test
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -m soak --record tests/baselines/soak.json $(ARGS)

lint: $(VENV)/.test
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/pyright --pythonpath $(VENV)/bin/python && $(VENV)/bin/lint-imports

fmt: $(VENV)/.test
	$(VENV)/bin/ruff check --fix --exit-zero . && $(VENV)/bin/ruff format .

# What has to pass before a change is merged.
check:
	.ci/run

# Plans the 48-GPU run with XLA's GPU compiler, which needs no GPU. In an environment of its own: where the compiler is
# installed, jax looks for CUDA at every start and says on stderr that there is none.
plan:
	@$(MAKE) --no-print-directory VENV=$(VENV)-plan $(VENV)-plan/.plan
	$(VENV)-plan/bin/python scripts/plan.py $(ARGS)

# The real SGLang server on the CPU, for tests and trials: python scripts/serve.py --server.python .venv-sglang/bin/python
# In an environment of its own, whose versions are not the trainer's. A GPU machine wants the extra `sglang` instead.
sglang: $(VENV)-sglang/.sglang

# Remakes the tiny problems, the tokenizer and the warm-started policy (about 20 minutes on 2 cores).
tiny: $(VENV)/.train
	JAX_PLATFORMS=cpu $(VENV)/bin/python scripts/make_tiny.py $(ARGS)

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.train: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing what training needs (CPU; about a minute)"
	$(PIP) -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.test: $(VENV)/.train
	@echo "installing what the tests need (about a minute)"
	$(PIP) -c constraints.txt -e '.[train,test]'
	$(PIP) --no-deps atroposlib==0.4.0  # its API server needs fastapi and uvicorn only, all of it a gigabyte
	@touch $@

$(VENV)/.plan: $(VENV)/.train
	@echo "installing XLA's GPU compiler (231 MB)"
	$(PIP) -c constraints.txt -e '.[plan]'
	@touch $@

$(VENV)-sglang/.python:
	@command -v $(SGLANG_PYTHON) >/dev/null || { echo "error: $(SGLANG_PYTHON) not found; install Python 3.11, or name it: make sglang SGLANG_PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "making $(VENV)-sglang with $$($(SGLANG_PYTHON) --version)"
	$(SGLANG_PYTHON) -m venv $(VENV)-sglang
	@touch $@

# SGLang, its grammars and its router ask for CUDA builds of what stands in constraints-sglang.txt: they come without their
# dependencies. What has no CPU wheel at all is stood in for by tests/sglang_stubs.
$(VENV)-sglang/.sglang: $(VENV)-sglang/.python constraints-sglang.txt
	@echo "installing SGLang for the CPU (about 2 minutes)"
	$(SGLANG_PIP) -r <(grep -vE '$(SGLANG_ITSELF)' constraints-sglang.txt)
	$(SGLANG_PIP) --no-deps -r <(grep -E '$(SGLANG_ITSELF)' constraints-sglang.txt)
	@echo "$(CURDIR)/tests/sglang_stubs" > "$$($(VENV)-sglang/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nouscoder_sglang_stubs.pth"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-plan $(VENV)-sglang build dist .pytest_cache .ruff_cache
