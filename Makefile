# make demo    the main job on real images: set-up, search, Pareto front
# make test    set-up, then format, lint, types and tests
# make setup   the virtual environment alone; quick when nothing has changed

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test check slow

setup: $(READY)

# Torch first and pinned, so that pip takes the build that this machine offers (a CPU build where
# there is one) instead of whatever another package would pull in.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Crossfront needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; choose one with: make PYTHON=python3.11")'
	@echo "1 of 3: making $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "2 of 3: installing torch, the largest part; minutes where it has to be downloaded"
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt torch
	@echo "3 of 3: installing Crossfront with everything else; a minute or two"
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: setup
	@if [ -e studies/lenet5/journal.log ]; then $(BIN)/crossfront resume lenet5; \
	else $(BIN)/crossfront search examples/lenet5.toml; fi

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow
