# Every target sets up .venv by itself, from the pinned constraints, once (a stamp file remembers it).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TEST_ARGS ?= -n 2
ARGS ?=
N ?= 50

.DEFAULT_GOAL := help
.PHONY: help demo test lint benchmark ablation speed soak

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## teach one toybox subject with TI and DTI, compare them in a picture (minutes)
	$(PY) -m dti_repro.demo $(ARGS)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest $(TEST_ARGS)

lint: $(STAMP) ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

benchmark: $(STAMP) ## the main table on the toybox: what is missing is computed (about 40 minutes from nothing)
	$(PY) -m dti_repro.benchmark experiment=main_table $(ARGS)

ablation: $(STAMP) ## the ablation table on the toybox: what is missing is computed
	$(PY) -m dti_repro.benchmark experiment=ablation $(ARGS)

speed: $(STAMP) ## measure this trainer and evaluator against the plain way, side by side
	$(PY) benchmarks/speed.py $(ARGS)

soak: $(STAMP) ## kill a training N times (N=50) at random moments; the result must be the same bytes
	$(PY) benchmarks/soak.py kills=$(N)
