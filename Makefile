# The two commands of the README: `make demo` and `make test`. Both prepare the environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Written when the installation has succeeded, so that a venv made by hand is completed, not trusted.
STAMP := $(VENV)/.mlopt-installed

# Where there is no network it gives up, and does not wait for minutes.
APT := DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=10

.PHONY: help demo test lint browser wheel gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 8

demo: $(STAMP)  ## search with LFM-CW on the embedded data set, retrain, write the report
	$(BIN)/python examples/demo.py

test: lint  ## check style and types, then run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)  ## check style (ruff) and types (pyright)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

browser:  ## install Debian's Chromium, in which the tests look at reports; where that cannot be, say so
	@command -v chromium || { $(APT) update -qq && $(APT) install -y -qq --no-install-recommends chromium; } \
		|| echo "no browser: apt-get cannot install chromium here, so tests in a browser are skipped"

wheel: $(STAMP)  ## build the wheel, dist/*.whl: pip install dist/*.whl
	rm -rf build dist/*.whl  # nothing of an earlier build gets into this one
	$(BIN)/python -m build --wheel --no-isolation

gpu: $(STAMP)  ## run on a GPU what needs one, in ten minutes; without one, say so
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove the environment, builds and caches; runs/ and data/ stay
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[nas,test]"
	touch $@
