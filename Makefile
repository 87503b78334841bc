# Every target does its own set-up: it makes .venv when that is missing and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install
CORE := $(VENV)/.core
TEST := $(VENV)/.test
BENCH := $(VENV)/.bench
DOCS := $(VENV)/.docs
NATIVE := $(wildcard native/*.h native/*.cpp native/*.py)  # compiled by the install, where there is a compiler

.DEFAULT_GOAL := help
.PHONY: help demo test check bench gpu sanitize coverage docs wheel clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(CORE) ## Halve a bundled network and print what was gained
	@$(BIN)/secateur demo

test: $(TEST) ## Run the tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(TEST) ## Lint, format and types (mypy strict, pyright as editors run it)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

gpu: $(BENCH) ## Run the tests of tests/gpu and benchmarks/gpu.py, where there is a GPU (eight minutes)
	@$(BIN)/python -m pytest -n0 tests/gpu
	@$(BIN)/python benchmarks/gpu.py

coverage: $(BENCH) ## Append missing rows to results/coverage.csv: which models go through (an hour)
	@$(BIN)/python benchmarks/coverage.py

bench: $(BENCH) ## Append missing cells to results/*.csv (hours), write the tables of README and docs
	@$(BIN)/python benchmarks/oneshot.py
	@$(BIN)/python benchmarks/oneshot.py --finetune
	@$(BIN)/python benchmarks/latency.py
	@$(BIN)/python benchmarks/calibration_size.py
	@$(BIN)/python benchmarks/ablation.py
	@$(BIN)/python benchmarks/cost.py
	@$(BIN)/python benchmarks/effnet.py
	@$(BIN)/python benchmarks/minilm.py
	@$(BIN)/python benchmarks/decoder.py
	@$(BIN)/python benchmarks/large_decoder.py
	@$(BIN)/python benchmarks/lenet.py
	@$(BIN)/python benchmarks/cifar_connections.py
	@$(BIN)/python benchmarks/connection_scores.py
	@$(BIN)/python benchmarks/language.py --tune
	@$(BIN)/python benchmarks/language.py
	@$(BIN)/python benchmarks/hook_overhead.py
	@$(BIN)/python benchmarks/nn_relief_speed.py
	@$(BIN)/python benchmarks/engines.py --prepare
	@$(BIN)/python benchmarks/engines.py
	@$(BIN)/python benchmarks/packing.py
	@$(BIN)/python benchmarks/fuzz_packed.py
	@$(BIN)/python benchmarks/fuzz_artefacts.py
	@$(BIN)/python benchmarks/kill_saves.py
	@$(BIN)/python benchmarks/strangers.py
	@$(BIN)/python benchmarks/microstructure.py
	@$(BIN)/python benchmarks/microstructure_training.py
	@$(BIN)/python benchmarks/runtime_layers.py --minutes 600
	@$(BIN)/python benchmarks/int8_layers.py --minutes 600
	@$(BIN)/python benchmarks/runtime_networks.py --minutes 600
	@SECATEUR_EXAMPLES=10000 $(BIN)/python -m pytest tests/runtime/test_kernels.py --timeout 7200
	@$(BIN)/python benchmarks/tables.py

sanitize: $(TEST) ## Run the kernels' tests under the address and undefined-behaviour sanitizers
	@$(BIN)/python native/build.py --sanitize --into build/sanitized
	@SECATEUR_EXAMPLES=$${SECATEUR_EXAMPLES:-500} SECATEUR_TEST_KERNELS=build/sanitized ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest tests/runtime/test_kernels.py tests/runtime/test_chain.py tests/runtime/int8 --timeout 3600

docs: $(DOCS) ## Build the documents into build/docs; a broken link or reference is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/docs/index.html"

wheel: $(TEST) ## Build a wheel and an sdist into dist/, install each with and without a compiler, and try it
	@$(BIN)/python tools/distribution.py --into dist

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("secateur needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml $(NATIVE) | $(BIN)/python
	@echo "Installing secateur into $(VENV) (a minute or more the first time) ..."
	@$(PIP) -e .
	@touch $@

$(TEST): pyproject.toml $(NATIVE) | $(BIN)/python
	@echo "Installing secateur and its test tools into $(VENV) (a few minutes the first time) ..."
	@$(PIP) -e '.[test]'
	@touch $(CORE) $@

$(BENCH): pyproject.toml $(NATIVE) | $(BIN)/python
	@$(PIP) -e '.[test,bench]'
	@touch $(CORE) $(TEST) $@

$(DOCS): pyproject.toml | $(BIN)/python
	@$(PIP) -e '.[docs]'
	@touch $(CORE) $@
