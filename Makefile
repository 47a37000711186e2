# Colonnade: `make` lists the targets. CI calls the same ones.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PASSAGES ?= 10000
SERVED ?= 4000
THREADS ?= 1
BIN := $(VENV)/bin
PACKAGES := index_format encoding serving tasks flows colonnade

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture check fmt bench bench-serving bench-gpu bench-quality quality wheel clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Make the environment (pip, pinned by constraints.txt)

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Making the environment in $(VENV): some minutes and 2 GB the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## Index the docstrings on this machine, answer a few questions, and serve them
	$(BIN)/colonnade demo

test: setup ## Run the whole suite
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

torture: setup ## Break everything on purpose, for two hours: damage, kills, full disks, power loss, lying stores, bad requests
	$(BIN)/python -m tests.torture
	$(BIN)/python -m tests.simulator.simulate --schedules 20000
	$(BIN)/python -m tests.simulator.simulate --rules --schedules 2000
	$(BIN)/python -m tests.torture.many_writers --writers 8 --commits 500

check: setup ## Format, lint, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

$(VENV)-peers/.ready: benchmarks/engines/requirements.txt
	@echo "Making the peers' environment in $(VENV)-peers ..."
	@$(PYTHON) -m venv $(VENV)-peers
	@$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench: setup $(VENV)/.bench $(VENV)-peers/.ready ## Measure search beside the peers: make bench DATA=folder-of-collections [PASSAGES=10000] [THREADS=1]
	$(BIN)/python -m benchmarks.search $(DATA) --peers $(VENV)-peers/bin/python --passages $(PASSAGES) --threads $(THREADS)

.bench/served.ready: $(VENV)/.ready
	@mkdir -p .bench
	$(BIN)/python -c "from pathlib import Path; from colonnade.demo_corpus import write_corpus; write_corpus(Path('.bench/docstrings.parquet'), 1000)"
	$(BIN)/colonnade build .bench/docstrings.parquet .bench/served
	@touch $@

bench-serving: setup $(VENV)/.bench $(VENV)-peers/.ready .bench/served.ready ## Measure the server beside a peer, and under load and swaps: make bench-serving DATA=folder [SERVED=4000]
	$(BIN)/python -m benchmarks.serving_peers $(DATA) --peers $(VENV)-peers/bin/python --passages $(SERVED)
	$(BIN)/python -m benchmarks.serving .bench/served

bench-gpu: setup $(VENV)/.bench ## Check the kernels of a GPU and time them; without a GPU only check
	$(BIN)/python -m benchmarks.gpu

bench-quality: setup $(VENV)/.bench ## Measure quality, bytes, speed and memory of whole indexes: make bench-quality DATA=folder
	$(BIN)/python -m benchmarks.quality $(DATA)

quality: setup $(VENV)/.bench ## Check the quality of answers on one small collection: make quality DATA=folder
	$(BIN)/python -m benchmarks.quality $(DATA) --sets limit-small --output .bench/quality.json
	$(BIN)/python -m benchmarks.check .bench/quality.json

wheel: setup ## Build the sdist and the wheel into dist/
	$(BIN)/python -m build

clean: ## Remove what the targets made
	rm -rf $(VENV) $(VENV)-peers .demo .bench dist
