# Every target sets up what it needs first and does nothing twice: see scripts/setup.sh.
PYTHON ?= python3
VENV := .venv
CORE_VENV := .venv-core
PEERS_VENV := .venv-peers
BIN := $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help bench-gpu test-gpu demo test test-exhaustive test-core chaos chaos-serving check docs format pairs variants train-street train-depth clean setup-core setup-check setup-dev setup-test-core setup-peers

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /  make \1\t/' | expand -t 24

demo: setup-core ## compare the two shipped detectors on street scenes; prints where report.html is
	@$(BIN)/dyno demo

test: setup-dev ## every test, with branch coverage
	@$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term

test-exhaustive: setup-dev ## the few tests that take minutes each; a shorter twin of each is in `make test`
	@$(BIN)/pytest -m exhaustive

test-core: setup-test-core ## every test that needs no torch, in an environment that has none
	@$(CORE_VENV)/bin/pytest -n 2 --dist loadfile -m "not torch and not exhaustive"

chaos: setup-dev ## kill workers, server and Redis under load, on both queues; minutes; last line: the figures
	@PYTHONPATH=tests $(BIN)/python -m chaos

chaos-serving: setup-dev ## overload, kill, stall and crowd an inference server; minutes; last line: the figures
	@PYTHONPATH=tests $(BIN)/python -m serving_drill

check: setup-check ## lint, format, types, import layers, links, generated docs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/cli_reference.py --check
	@$(BIN)/python scripts/check_docs_links.py

docs: setup-core ## write docs/cli.md from the commands, then check every link
	@$(BIN)/python scripts/cli_reference.py
	@$(BIN)/python scripts/check_docs_links.py

format: setup-check ## apply the formatter and the safe lint fixes
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench-%: setup-dev ## run benchmarks/NAME.py and write benchmarks/results/NAME.json
	@$(BIN)/python benchmarks/$(subst -,_,$*).py

# On a machine lent for an hour nothing can be installed: what the system's Python has, and what was carried along.
GPU_PYTHON = $(if $(wildcard $(VENV)/lib/python3*/site-packages/torch),$(BIN)/python,$(PYTHON))
GPU_PATH = src$(if $(filter $(BIN)/python,$(GPU_PYTHON)),,$(addprefix :,$(wildcard build/gpu-packages)))
ON_GPU = PYTHONPATH=$(GPU_PATH)$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON)

bench-gpu: ## measure on an NVIDIA GPU, by the environment that is here or the system's Python; nothing is installed
	@$(ON_GPU) benchmarks/gpu.py

test-gpu: ## the tests that need an NVIDIA GPU, likewise
	@$(ON_GPU) -m pytest -m gpu tests/gpu

bench-serving bench-load: setup-peers # their peers, beside what bench-% sets up

pairs: setup-dev ## train a model of each family on street scenes, compare the four standing pairs (CPU, minutes)
	@$(BIN)/python scripts/pairs.py

variants: setup-dev ## one detector in fp32, bf16, fp16, int8 and pruned: one report (CPU, minutes)
	@$(BIN)/python scripts/variants.py

train-street: setup-dev ## train the two shipped detectors anew (CPU, minutes)
	@$(BIN)/python scripts/train_street.py

train-depth: setup-dev ## train the shipped depth model anew (CPU, minutes)
	@$(BIN)/python scripts/train_depth.py

clean: ## remove environments, caches and build outputs
	rm -rf $(VENV) $(CORE_VENV) $(PEERS_VENV) build dist htmlcov demo-report dyno-report gate-report out tests/output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup-core:
	@scripts/setup.sh $(VENV) core
setup-check:
	@scripts/setup.sh $(VENV) check
setup-dev:
	@scripts/setup.sh $(VENV) dev
setup-test-core:
	@scripts/setup.sh $(CORE_VENV) test-core
setup-peers:
	@scripts/setup.sh $(PEERS_VENV) peers
