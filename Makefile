# Each target sets up what it needs: `make run` measures the quick preset, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv installs faster where it is at hand; `make UV= ...` uses pip.
UV ?= $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check --no-compile)

.PHONY: run test lint docs gate gpu coverage clean

run: $(VENV)/.installed
	$(BIN)/effbench run

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, in build/docs; a warning is an error, and a page that no table of contents names is one.
docs: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env -b html docs build/docs

# The lines that the tests run, in the measured processes too; twice as slow as `make test`. The two tests left out are
# about processes that end at once, which coverage.py delays.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -n 2 --dist worksteal -m "not alone" \
		--deselect tests/test_uncounted.py::test_work_in_other_processes_is_named_and_idle_ones_are_not \
		--deselect tests/test_execute.py::test_nothing_outlives_the_executor
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Against what landed last: the remote's main branch, or the commit before. Exact figures of every baseline, the
# training time of Fastformer within 45 seconds.
BASE ?= $(shell for ref in origin/HEAD origin/main HEAD^; do \
	git rev-parse --verify --quiet $$ref^{commit} | grep -v "^$$(git rev-parse HEAD)$$" && break; done)
gate: $(VENV)/.installed-dev
ifneq ($(strip $(BASE)),)
	$(BIN)/effbench gate --quiet --base "$(BASE)" --exact-only
	$(BIN)/effbench gate --quiet --base "$(BASE)" -m fastformer --mode train --budget 45s
else ifneq ($(origin BASE),file)
	@echo "gate: BASE is empty: name a revision or a folder" >&2; exit 2
else
	@[ "$$(git rev-parse --is-shallow-repository)" = false ] || \
		{ echo "gate: no earlier commit is in this clone: git fetch --unshallow" >&2; exit 2; }
	@echo "gate: there is no earlier commit to compare with"
endif

# Everything that needs a CUDA device, in stages of a few minutes; run it again to continue. See docs/gpu.md.
OUT ?= results/gpu
gpu: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu.py "$(OUT)"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --quiet -c constraints.txt -e '.[dev,docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
