# make demo   sets everything up, runs the quickstart workflow and says where the report is
# make test   sets everything up, then ruff, pyright and the tests
# make audit  asks a service for known vulnerabilities of the pinned dependencies; skipped, and said so, without network
# PYTHON=/path/to/python3.12 make demo   picks another interpreter (3.11 or newer)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread: tensors this small gain little from two, and two that compete for a busy core lose everything.
THREADS ?= 1
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test audit venv format docs clean

demo: $(VENV)/.installed
	@# Exit code 4 is an honest answer: finished, but a stated criterion was missed on this machine in this time.
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/particlegen run workflows/quickstart.yaml || test $$? -eq 4

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

audit: | $(BIN)/python
	@.ci/audit $(BIN)/python

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

venv: $(VENV)/.installed-test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "particlegen needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install a newer one and run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing particlegen and what it needs into $(VENV) (once, a few minutes) ..."
	@$(INSTALL) -e '.[mdtraj]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing particlegen and what its tests need into $(VENV) (once, a few minutes) ..."
	@$(INSTALL) -e '.[all,docs,test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis docs/_build
