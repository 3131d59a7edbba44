# Everything runs in .venv, made when it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup demo test test-long test-all check lowest fix golden docs notebooks bench compatibility fuzz fuzz-guided clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

# The demonstration needs no tools: repairkit and a runtime are enough.
$(BIN)/repairkit: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	touch $@

demo: $(BIN)/repairkit
	$(BIN)/repairkit demo

# A process per core, so each of them computes with one thread.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

# What takes some seconds a test; CI runs it too.
test-long: export OMP_NUM_THREADS = 1
test-long: setup
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'long and not slow and not gpu'

# Also what CI has no time for.
test-all: setup
	$(BIN)/python -m pytest -m "not gpu"

# Every command on the lowest versions that pyproject.toml allows, in an environment of its own.
LOWEST := .lowest
lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)/tool
	$(LOWEST)/tool/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/tool/bin/uv venv --quiet --python $(PYTHON) $(LOWEST)/env
	$(LOWEST)/tool/bin/uv pip install --quiet --python $(LOWEST)/env/bin/python \
		--resolution lowest-direct '.[cpu,openvino,overlay,parquet,prometheus]'
	cd $(LOWEST) && env -u PYTHONPATH env/bin/python ../tests/lowest/smoke.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Renew the files that others read; look at the diff.
golden: setup
	$(BIN)/python -m pytest tests -q --golden

# The site of the documentation, in site/; needs no network.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

# Write the notebooks of docs/jobs from their pages, without outputs.
notebooks: setup
	$(BIN)/python -m tests.worked_jobs.pairs

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/engine.py --quick
	$(BIN)/python benchmarks/estimators.py --quick
	$(BIN)/python benchmarks/coverage.py --quick

# Try every model of the zoo and of the onnx package; takes a quarter of an hour.
compatibility: setup
	$(BIN)/python benchmarks/compatibility.py -o docs/compatibility.md

# Spoilt inputs through the command line, in child processes under limits; INPUTS=100000 for all.
INPUTS ?= 20000
fuzz: setup
	$(BIN)/python -m tests.fuzz.driver --inputs $(INPUTS)

# The same, steered by which code an input reaches; TARGET=archive, and so on.
TARGET ?= archive
fuzz-guided: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(BIN)/python -m tests.fuzz.guided $(TARGET) -runs=$(INPUTS) -rss_limit_mb=2048 -timeout=10

clean:
	rm -rf .venv .lowest build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
