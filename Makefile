# Everything a fresh machine needs: Python 3.11, make, and what stands here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Strangers get the CPU build of torch too; where this index is out of reach pip uses what it has.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Most tests wait on processes of their own: three at once keep two cores busy, more wait on each other.
TEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test lint up bench clean

help: ## say what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## install into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/install.py --torch-index "$(TORCH_INDEX)"
	@touch $(STAMP)

demo: install ## create, embed, publish and search real playbooks, embedded
	$(BIN)/python examples/demo.py

test: install ## every test: unit, workflow, e2e, chaos
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: install ## ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

up: install ## start the whole service in the foreground
	$(BIN)/escher-playbooks up

bench: install ## the benchmarks, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean: ## remove what install and the tools made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
