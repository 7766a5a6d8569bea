# Everything runs in a virtual environment of its own, with the versions that were tested.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2

.PHONY: install demo test test-all lint bench docs readme clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[data,dev]'
	touch $@

demo: install
	$(BIN)/anabranch compare digits --trials 2 --workers 2 --resume

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps 'pykan>=0.2.8'
	$(BIN)/python -m benchmarks

docs: install
	$(BIN)/python docs/build.py

readme: install
	$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache dist site
