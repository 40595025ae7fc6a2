# `make edit` and `make test` set up everything they need in .venv; a second call is quick.
PYTHON ?= python3
IMAGE  ?= examples/scene.png
PROMPT ?= make it night
OUT    ?= out/edited.png
ARGS   ?=
export IMAGE PROMPT OUT

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help edit check test lint format architecture reference docs clean
.DELETE_ON_ERROR:

help:
	@echo 'make edit [IMAGE=photo.jpg] [PROMPT="make it night"] [OUT=out/edited.png] [ARGS="--seed 1"]'
	@echo 'make test      what CI runs: lint, spelling, types, import rules, then the fast tests; stops at the first failure'
	@echo 'make check     the same'
	@echo 'make lint      all of that but the tests'
	@echo 'make format    put the code in the house style'
	@echo 'make architecture  draw the picture of the rooms in CONTRIBUTING.md anew'
	@echo 'make reference write the reference pages anew: commands, settings, recipes, addresses'
	@echo 'make docs      build the pages as a site, with strict links, in out/site'
	@echo 'make clean     remove the virtual environment and the caches'

edit: $(VENV)/.edit
	@mkdir -p "$$(dirname "$$OUT")"
	@$(BIN)/openkontext edit "$$IMAGE" "$$PROMPT" --output "$$OUT" --overwrite $(ARGS)

check: test

# In the order of speed: seconds of lint and spelling, then types and import rules, then the tests.
test: lint
	$(BIN)/python -m pytest -q -n auto

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

architecture: $(VENV)/.test
	$(BIN)/python scripts/architecture.py

reference: $(VENV)/.test
	$(BIN)/python scripts/reference.py

docs: reference
	$(BIN)/mkdocs build --quiet
	@echo 'open out/site/index.html'

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'openkontext needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# What editing needs: no torch.
$(VENV)/.edit: pyproject.toml constraints.txt hatch_build.py | $(BIN)/python
	$(PIP) -e '.[cpu]'
	@touch $@

# What the tests need. torch comes first and alone, so that its pinned build is there before anything asks for it.
$(VENV)/.test: pyproject.toml constraints.txt hatch_build.py | $(BIN)/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps $$(grep '^blackforest==' constraints.txt)  # it asks for an old Pillow and works with ours
	# A plugin that runs on any CPU, for the tests of plugins. It asks for an older ONNX Runtime, and has no wheel everywhere.
	$(PIP) --no-deps $$(grep '^onnxruntime-ggml==' constraints.txt) || echo 'tests of plugins will be skipped'
	@touch $@ $(VENV)/.edit
