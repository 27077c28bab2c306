# `make demo` and `make test` are all one needs; each makes the machine ready first (see scripts/prepare.py).
PYTHON ?= python3
VENV := .venv
WORKERS ?= 4

.DEFAULT_GOAL := help
ROUNDS ?= 300
REPEAT ?= 300
SEED ?= 1

.PHONY: help setup lab book demo exercises test test-unit test-vm test-versions chaos check format bench bench-grading probes fuzz clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## make .venv, install what Debian packages are missing, make the base images
	@$(PYTHON) scripts/prepare.py run

lab: ## set up, then open the course in JupyterLab; LAB="--port 9000 --no-browser" are options
	@$(PYTHON) scripts/prepare.py lab
	@$(VENV)/bin/python scripts/lab.py $(LAB)

book: ## set up, run the whole course, and make a book of HTML pages of it: book/index.html
	@$(PYTHON) scripts/prepare.py lab
	@$(VENV)/bin/python scripts/book.py

demo: ## set up, then walk through the whole tutorial for real
	@$(PYTHON) scripts/prepare.py demo
	@$(VENV)/bin/python scripts/demo.py

test: ## set up with the peers to compare with, then run every test
	@$(PYTHON) scripts/prepare.py test
	$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal

test-unit: ## run the tests that need no root and take seconds
	$(VENV)/bin/pytest -q -n $(WORKERS) -m "not root and not peers"

test-vm: ## run tests in a virtual machine: limits under cgroup version 2, systemd, networks, an ordinary user
	@$(PYTHON) scripts/prepare.py run
	@$(VENV)/bin/python scripts/vm.py

test-versions: ## run the unit tests on every Python that minidocker supports
	@$(PYTHON) scripts/versions.py 3.11 3.12 3.13

chaos: ## kill our processes at random, ROUNDS=300 times from SEED=1, after REPEAT=300 times `run --rm`
	@$(PYTHON) scripts/prepare.py run
	$(VENV)/bin/python scripts/chaos.py --rounds $(ROUNDS) --seed $(SEED) --repeat $(REPEAT)

check: ## lint, check the format, check the types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: ## format the code and mend what the linter can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: ## measure side by side with docker, podman, skopeo, runc and nbgrader; tables and plots; ONLY=pull for one
	@$(PYTHON) scripts/prepare.py bench
	@$(VENV)/bin/python benchmarks/run.py $(ONLY)

bench-grading: ## how grading grows from 10 to 1,000 submissions, beside nbgrader; a table into docs/grading.md
	@$(PYTHON) scripts/prepare.py bench
	@$(VENV)/bin/python benchmarks/grading.py

exercises: ## make the learners' notebooks anew from solutions/, and prove every exercise (see docs/course.md)
	$(VENV)/bin/python scripts/exercises.py write
	$(VENV)/bin/python scripts/exercises.py prove

probes: ## look around in docker's default container and in ours; writes docs/probes.md
	@$(PYTHON) scripts/prepare.py test
	@$(VENV)/bin/python scripts/probes.py

fuzz: ## fuzz one reader of strangers' input: make fuzz TARGET=tar SECONDS=60 (see docs/fuzzing.md)
	$(VENV)/bin/pip install --quiet 'atheris>=3'
	nice -n 10 $(VENV)/bin/python scripts/fuzz.py $(TARGET) $(or $(SECONDS),60)

clean: ## stop our containers, remove our networks, mounts, caches and .venv; images and containers stay on disk
	@if [ -x $(VENV)/bin/python ]; then $(VENV)/bin/python scripts/clean.py; fi
	rm -rf $(VENV) .venv-3.* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
