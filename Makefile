# Every target sets up what it needs: a virtual environment with the pinned torch first, then rekernel and its extras.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
BIN = $(VENV)/bin
READY = $(VENV)/.rekernel-ready

.PHONY: setup demo test test-slow lint bench docs site

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## convert two trained classifiers to 2x and 4x and show that they still classify
	$(BIN)/rekernel demo --out $(OUT)

test: $(READY)  ## the default tests, README and docstring examples among them
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(READY)  ## full-size architectures and the long fault tests
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m rekernel_cli.reference --check

docs: $(READY)  ## what is generated: the CLI reference and the figures
	$(BIN)/python -m rekernel_cli.reference
	$(BIN)/python docs/figures/make.py

site: $(READY)  ## the documentation as a site, in out/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)  ## the tables in the README; needs 40 GB in BENCH_FOLDER
	$(BIN)/python benchmarks/accuracy/design.py
	$(BIN)/python benchmarks/accuracy/architectures.py
	$(BIN)/python benchmarks/accuracy/training.py
	$(BIN)/python benchmarks/accuracy/diffusion.py --samples 200
	$(BIN)/python benchmarks/accuracy/diffusion.py --decisive --samples 1000
	$(BIN)/python benchmarks/accuracy/diffusion_tables.py
	$(BIN)/python benchmarks/speed/resample.py
	$(BIN)/python benchmarks/speed/inference.py
	$(BIN)/python benchmarks/speed/smoothing.py
	$(BIN)/python benchmarks/speed/guidance.py
	$(BIN)/python benchmarks/speed/convert.py --folder $(or $(BENCH_FOLDER),/tmp/rekernel-bench)
