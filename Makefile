# Everything from nothing but Python 3.11+, pip and make: "make demo", "make test".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
COMPILED ?= .venv-compiled
WHEELS ?= dist/compiled
FAUST := .venv-faust
QUIX := .venv-quix
SBOM_VENV := .venv-sbom
SOURCES := consumer schemas tests hatch_build.py
PACKAGES := $(shell find consumer schemas -type f -not -path '*/__pycache__/*')
SECONDS ?= 600
# pip, or uv where one is given (UV=uv): it takes the same locks, in a seventh of the time.
install = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet --disable-pip-version-check)
# What may differ between versions of Python and needs no Kafka, in virtual time or without a clock.
VIRTUAL := tests/unit/core tests/unit/nodes tests/virtual tests/unit/test_admin.py tests/unit/test_exports.py \
	tests/unit/test_schemas.py tests/unit/test_settings.py
# The same with real threads and processes, and one round trip on the embedded broker.
REALTIME := tests/realtime tests/embedded/cli/test_round_trip.py
# What the compiled build may break besides.
PUBLISHING := tests/embedded/test_sink.py tests/embedded/test_sender.py tests/embedded/test_event_batch.py
# Of these, what tests no compiled module.
UNCOMPILED := $(addprefix tests/realtime/,test_examples.py test_fork_server.py test_llm.py test_outbound.py \
	test_process_resources.py test_resources_threads.py test_settings_of_nodes.py test_thread_resources.py)
# Virtual hours of arithmetic, which is the same in each version and in each build.
SLOW := tests/virtual/test_recovered_node.py tests/virtual/test_concurrency_limit.py tests/virtual/test_overload.py \
	tests/virtual/test_learning.py tests/virtual/test_unanswerable.py tests/virtual/test_machine.py \
	tests/virtual/test_hedging_load.py tests/virtual/test_batch_load.py \
	tests/unit/core/test_concurrency_limit.py tests/unit/core/test_node_trials.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-tools test-fast test-long test-compiled test-compiled-virtual test-compiled-realtime test-pythons mutants verbs long wheel check format bench bench-quick bench-overload bench-hostile bench-ordinary bench-slow bench-controls bench-scale bench-restart soak faults chaos kafka-image sbom lock

help: ## Show the verbs
	@grep -hE '^[a-z-]+%?:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(READY) ## Show everything on this machine, without Docker or Kafka
	$(BIN)/fivestage demo

test: $(READY) ## The tests of the product; those on a real Kafka are skipped where there is none
	$(BIN)/pytest -n auto

test-fast: $(READY) ## The tests that need no Kafka and little time
	$(BIN)/pytest -n auto $(VIRTUAL) $(REALTIME) $(addprefix --ignore=,$(SLOW))

test-long: $(BENCH_READY) $(FAUST)/.ready $(QUIX)/.ready ## All tests, also the long ones
	FIVESTAGE_TEST_START=exec $(BIN)/pytest -n auto --long tests

mutants: $(READY) ## Plant mistakes in the product: each must make a test fail
	$(BIN)/python -m tests.tools.mutants $(OPTIONS)

test-tools: $(BENCH_READY) ## The tests of what measures, kills and plants mistakes (tests/tools)
	$(BIN)/pytest -n auto tests/tools

verbs: $(BENCH_READY) ## Each verb that measures, in its shortest form
	$(BIN)/pytest -n auto --verbs -m verb tests/tools $(OPTIONS)

long: $(READY) ## Every long run, in hours, with a report (docs/long.md)
	$(BIN)/python -m tests.tools.long $(OPTIONS)

test-python%: ## The fast tests on another Python, e.g. test-python3.13
	python=$$(bash .ci/python.sh $*) && $(MAKE) VENV=.venv-python$* PYTHON=$$python test-fast

test-pythons: ## The fast tests on each other Python that is found
	@for version in 3.12 3.13 3.14; do \
		if bash .ci/python.sh $$version >/dev/null 2>&1; then $(MAKE) test-python$$version || exit 1; fi; \
	done

wheel: $(WHEELS)/.made ## A compiled wheel in dist/compiled/ (needs a C compiler and Python.h)

test-compiled: $(COMPILED)/.ready ## The tests of compiled modules, against the compiled wheel
	$(COMPILED)/bin/pytest -n auto tests/simulation $(VIRTUAL) $(REALTIME) $(PUBLISHING) $(addprefix --ignore=,$(SLOW) $(UNCOMPILED))

# The same in two parts, for CI; PART=0/2 is one half of their tests.
test-compiled-virtual: $(COMPILED)/.ready
	$(COMPILED)/bin/pytest -n auto tests/simulation $(VIRTUAL) $(addprefix --ignore=,$(SLOW)) $(addprefix --part=,$(PART))

test-compiled-realtime: $(COMPILED)/.ready
	$(COMPILED)/bin/pytest -n auto $(REALTIME) $(PUBLISHING) $(addprefix --ignore=,$(UNCOMPILED)) $(addprefix --part=,$(PART))

check: $(READY) ## Format, lint, types, import rules
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	PYTHONPATH=consumer:schemas $(BIN)/lint-imports

format: $(READY) ## Format, and fix what ruff can fix
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(COMPILED)/.bench-ready $(READY) $(FAUST)/.ready $(QUIX)/.ready ## CPU, throughput, latency and memory beside others (OPTIONS=...)
	$(COMPILED)/bin/python -m tests.tools.bench $(OPTIONS)

bench-quick: $(BENCH_READY) ## CPU beside hand-written loops, in three minutes, not compiled (OPTIONS="--with PYTHON")
	$(BIN)/python -m tests.tools.bench --quick $(OPTIONS)

bench-overload: $(BENCH_READY) ## Goodput beyond capacity beside others, and after a restart (OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.overload $(OPTIONS)
	$(BIN)/python -m tests.tools.bench.overload --restart $(OPTIONS)

bench-hostile: $(BENCH_READY) ## Nodes that misbehave, and what the other queries end as (OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.hostile $(OPTIONS)

bench-ordinary: $(BENCH_READY) ## Apps of an ordinary day beside plain asyncio (OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.ordinary $(OPTIONS)

bench-slow: $(BENCH_READY) ## A node that becomes slow and recovers (OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.slow $(OPTIONS)

bench-controls: $(BENCH_READY) ## Learning on and off, on every shape of load, in virtual time (OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.controls $(OPTIONS)

bench-scale: $(COMPILED)/.bench-ready ## What a query costs as partitions, keys, backlog, answers, nodes grow (OPTIONS=...)
	$(COMPILED)/bin/python -m tests.tools.bench.scale $(OPTIONS)

bench-restart: $(BENCH_READY) ## What a rolling restart, a crash, a join and a leave cost (OPTIONS="--kafka host:port")
	$(BIN)/python -m tests.tools.bench.restart $(OPTIONS)

soak: $(BENCH_READY) ## Hours at a steady load: nothing may grow (SECONDS=3600, OPTIONS=...)
	$(BIN)/python -m tests.tools.bench.soak --seconds $(SECONDS) $(OPTIONS)

faults: $(READY) ## Every fault that is provided for, on real brokers, as a table (docs/faults.md)
	FIVESTAGE_TEST_START=exec $(BIN)/pytest -m fault --long --fault-table=docs/faults.md

chaos: $(READY) ## Kill, stop and restart instances and brokers at random for SECONDS=600, SEED=... (docs/chaos.md)
	$(BIN)/python -m tests.tools.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(OPTIONS)

kafka-image: ## Build an image of Apache Kafka where no registry can be reached (Debian, root)
	deploy/kafka-image/build.sh kafka

sbom: ## List the dependencies, as CycloneDX (sbom.json)
	$(PYTHON) -m venv $(SBOM_VENV)
	$(call install,$(SBOM_VENV)) --require-hashes -r requirements/sbom.txt
	$(SBOM_VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json requirements/runtime.txt

lock: $(READY) ## Compile the locked requirements (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra otlp -o requirements/runtime.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra embedded --extra otlp --group dev -c requirements/runtime.txt -o requirements/dev.txt
	uv pip compile requirements/build.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/dev.txt -o requirements/build.txt
	uv pip compile --group ci --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/ci.txt
	uv pip compile --group sbom --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/sbom.txt
	uv pip compile --group bench --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/dev.txt -o requirements/bench.txt
	uv pip compile --group bench-faust --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/bench-faust.txt
	uv pip compile --group bench-quix --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/bench-quix.txt

# One environment, made once and re-used until the lock or the project's metadata change.
$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("fivestage needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV)) --require-hashes -r requirements/dev.txt
	$(call install,$(VENV)) --no-deps --no-build-isolation -e .
	touch $@

# What only the larger benchmarks need: other people's consumers, and plots.
$(BENCH_READY): requirements/bench.txt $(READY)
	$(call install,$(VENV)) --require-hashes -r requirements/bench.txt
	touch $@

# What every query passes through, compiled by hatch_build.py, in an environment without the sources.
$(WHEELS)/.made: $(READY) $(PACKAGES) hatch_build.py
	rm -rf $(WHEELS)
	HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/hatchling build -t wheel -d $(WHEELS)
	touch $@

$(COMPILED)/.ready: $(WHEELS)/.made requirements/dev.txt
	$(BIN)/python -m venv $(COMPILED)
	$(call install,$(COMPILED)) --require-hashes -r requirements/dev.txt
	$(call install,$(COMPILED)) --no-deps --force-reinstall $(WHEELS)/*.whl
	$(COMPILED)/bin/python -c 'import sys, fivestage.observability.build_info as v; sys.exit(0 if v.COMPILED else f"not compiled: {v.__file__}; is PYTHONPATH set?")'
	touch $@

$(COMPILED)/.bench-ready: requirements/bench.txt $(COMPILED)/.ready
	$(call install,$(COMPILED)) --require-hashes -r requirements/bench.txt
	touch $@

# Contestants that need other versions of what the service uses.
$(FAUST)/.ready $(QUIX)/.ready: .venv-%/.ready: requirements/bench-%.txt
	$(PYTHON) -m venv .venv-$*
	$(call install,.venv-$*) --require-hashes -r $<
	touch $@
