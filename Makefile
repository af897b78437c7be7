# Every target sets up .venv by itself, from the pinned constraints, once (a stamp file remembers it).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TEST_ARGS ?= -n 2
ARGS ?=
N ?= 50
# Where torch can compile for the CPU (a C++ compiler, Python's headers), a step of the table's training is 1.3 to 1.4 times faster.
HEADERS = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')
COMPILED = $(if $(and $(shell command -v g++),$(wildcard $(HEADERS)/Python.h)),'train=[backbone.compile=true]')
SLURM := slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core slurm-wlm-mysql-plugin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all browser-test lint benchmark ablation methods figures claims report speed full-width soak slurm-test

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## teach one toybox subject with TI and DTI, compare them in a picture (minutes)
	$(PY) -m dti_repro.demo $(ARGS)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest $(TEST_ARGS)

test-all: $(STAMP) ## run the tests, the slow ones included
	OMP_NUM_THREADS=1 $(PY) -m pytest $(TEST_ARGS) -m "slow or not slow"

browser-test: $(STAMP) ## read the report page in a real browser, wide and narrow (on Debian, apt installs Chromium)
	command -v chromium chromium-browser google-chrome >/dev/null || \
		(apt-get update -q && apt-get install -q -y --no-install-recommends chromium)
	SCREENSHOTS=outputs/browser OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser -rs

lint: $(STAMP) ## check style, formatting and which package imports which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports

benchmark: $(STAMP) ## the main table on the toybox: what is missing is computed (from nothing 36 minutes on two fast cores)
	$(PY) -m dti_repro.benchmark experiment=main_table $(COMPILED) $(ARGS)

ablation: $(STAMP) ## the ablation table on the toybox: what is missing is computed
	$(PY) -m dti_repro.benchmark experiment=ablation $(ARGS)

methods: $(STAMP) ## all methods on the toybox: search the settings of ten, then the table; what is missing is computed
	$(PY) -m dti_repro.benchmark experiment=methods_search $(ARGS)
	$(PY) -m dti_repro.benchmark experiment=methods $(ARGS)

figures: $(STAMP) ## draw every figure of the stored results again, from the CSVs beside them (seconds)
	$(PY) -m dti_repro.figures $(ARGS)

claims: $(STAMP) ## decide the paper's claims from the stored results (seconds)
	$(PY) -m dti_repro.claims $(ARGS)

report: $(STAMP) ## the page of the main table, from the runs or the stored results (seconds)
	$(PY) -m dti_repro.report experiment=main_table $(ARGS)

speed: $(STAMP) ## time training, drawing and scoring beside the paper's code and diffusers' script
	$(PY) benchmarks/speed.py $(ARGS)

full-width: $(STAMP) ## every stage of a backbone (ARGS="backbone=sdxl") at its published widths, random weights
	$(PY) -m dti_repro.full_width $(ARGS)

soak: $(STAMP) ## kill train, generate, evaluate and benchmark N times (N=50) at random moments, compare the bytes
	$(PY) benchmarks/soak.py kills=$(N)

slurm-test: $(STAMP) ## start a real Slurm of one node (root, Debian; apt installs it), test a sweep on it, take it down
	dpkg -s $(SLURM) >/dev/null 2>&1 || (apt-get update -q && apt-get install -q -y --no-install-recommends $(SLURM))
	OMP_NUM_THREADS=1 $(PY) benchmarks/slurm/one_node.py $(PY) -m pytest tests/slurm
