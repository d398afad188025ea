# Each target does its own set-up: a virtual environment in .venv, and the wheel built as `pip install .` builds it.
# What it needs from the machine: Python 3.11 or newer, a Rust toolchain, a C linker, make.
#
#   make demo     a real server, traffic, an outage, the recovery; writes demo-report.html
#   make test     the Rust tests, then the Python tests against the built wheel
#   make test-other-python   the memory's and the clients' main tests under OTHER_PYTHON=python3.13
#   make test-loaded  the Python tests three times beside three busy loops for each core: tests that wait for time are found
#   make compat   redis-py's own tests, with our classes in the place of its own
#   make compat-versions   the same, and our own tests of what stands on redis-py, on every redis-py that is accepted (COMPAT_VERSIONS)
#   make test-neon  the scoring kernels of 64-bit Arm under an emulator, on x86-64 with Debian's packages
#   make fuzz     libFuzzer on the bytes of snapshots, of the journal and of servers and on texts, FUZZ_S seconds each (60)
#   make mutants  faults put into the core's decisions one by one, each of which a test has to find (MUTATED="retry budget" for some)
#   make kills    200 kills each: of clients that write through a journal; of process, Redis and PostgreSQL under the memory
#   make memory-machine   random programs over the memory system on SQLite and PostgreSQL, with and without Redis, and over its
#                 LangGraph store beside LangGraph's own (MACHINE_EXAMPLES)
#   make streams  generated streams of replies, right and wrong, against both transports (STREAM_EXAMPLES)
#   make interrupts   interruptions at every place where a signal can strike, cancellation at every suspension
#   make cancels  CANCELS cancelled calls (100,000) on asyncio's loop and on uvloop: no wrong reply, no connection lost
#   make leaks    LEAK_CALLS calls (1,000,000) of each kind, of which nothing may be kept
#   make sim      the simulations: memory from 100,000 seeds (SEEDS=1000000 for more), clients from 10,000 (CLIENT_SEEDS),
#                 each scenario of a cluster from 2,000 (CLUSTER_SEEDS), the client-side cache from 100,000 (CACHE_SEEDS)
#   make instructions   what a GET and a SET cost in instructions, held against what they are to cost (needs valgrind)
#   make bench    the benches, peers side by side
#   make lint     formatting, clippy, ruff, mypy, pyright (also over the documents and tests/typing), the stub, the generated files
#   make wheel    the release wheel, in dist/
#   make clean    removes what the targets above made
#
# PYTHON=python3.13 chooses the interpreter, PYTEST_ARGS="-k breaker" is handed to pytest, DEMO_ARGS to the demo, and
# BENCH=exact runs only the benches whose name contains it.

PYTHON ?= python3
PYTEST_ARGS ?=
SEEDS ?= 100000
KILLS ?= 200
CLIENT_SEEDS ?= 10000
CLUSTER_SEEDS ?= 2000
CACHE_SEEDS ?= 100000
DEMO_ARGS ?=
COMPAT_ARGS ?=
LOADED_RUNS ?= 3
BENCH ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
WHEELS := $(VENV)/wheels
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
PYTHON_SOURCES := pyproject.toml README.md LICENSE $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.css' -o -name '*.sql' -o -name py.typed)

# A toolchain that rustup installed for this user is found even by a shell that has not been told.
export PATH := $(PATH):$(HOME)/.cargo/bin
export PYO3_PYTHON := $(abspath $(BIN)/python)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: help demo compat test test-rust test-python test-loaded bench lint format generate wheel clean check-rust
help:
	@sed -n 's/^#   //p' Makefile

# --- set-up ---------------------------------------------------------------------------------------------------------

check-rust:
	@command -v cargo >/dev/null || { echo "missing: cargo (agent_memory has a Rust core; install a Rust toolchain, https://rustup.rs)"; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null \
		|| { echo "missing: a C linker (cc), which rustc calls; on Debian: apt-get install build-essential"; exit 1; }

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (Python 3.11 or newer; choose another with PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "too old: $$($(PYTHON) --version 2>&1), agent_memory needs Python 3.11 or newer (choose another with PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "missing: the venv module of $(PYTHON); on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# The build backend's version is the one pyproject.toml asks for, so a build without isolation is the build pip would do.
$(STAMPS)/build-tools: $(STAMPS)/venv pyproject.toml
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))' > $(STAMPS)/build-requires.txt
	$(BIN)/pip install --quiet --requirement $(STAMPS)/build-requires.txt
	@touch $@

# cargo decides what of the Rust is out of date: a change in Python alone only packs the wheel again.
$(STAMPS)/wheel: $(STAMPS)/build-tools $(RUST_SOURCES) $(PYTHON_SOURCES) | check-rust
	@rm -rf $(WHEELS)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir $(WHEELS) .
	@touch $@

# The wheel with the dependencies of one extra. The extras are resolved again only when pyproject.toml changes.
$(STAMPS)/extra-%: $(STAMPS)/venv pyproject.toml | $(STAMPS)/wheel
	$(BIN)/pip install --quiet "$$(echo $(WHEELS)/agent_memory_redis-*.whl)[$*]"
	@touch $@

$(STAMPS)/installed: $(STAMPS)/wheel
	$(BIN)/pip install --quiet --force-reinstall --no-deps $(WHEELS)/agent_memory_redis-*.whl
	@touch $@

wheel: $(STAMPS)/wheel
	@mkdir -p dist && cp $(WHEELS)/*.whl dist/ && ls dist/*.whl

# --- what a change is checked with --------------------------------------------------------------------------------------

test: test-rust test-python

test-rust: $(STAMPS)/venv check-rust
	cargo test --workspace --quiet

# arq's metadata asks for redis<6. It works with redis-py 8, which its trial in tests/behaviour/frameworks shows.
$(STAMPS)/arq: $(STAMPS)/extra-test
	$(BIN)/pip install --quiet --no-deps 'arq>=0.28,<1'
	@touch $@

test-python: $(STAMPS)/extra-test $(STAMPS)/arq $(STAMPS)/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Another interpreter's wheel, built as `pip install .` builds it there: the memory's and the clients' tests in which the interpreter
# matters most.
OTHER_PYTHON ?=
OTHER := $(VENV)/other
OTHER_TESTS ?= tests/unit/memory tests/unit/test_package.py tests/behaviour/memory/_async/test_memory_system.py \
	tests/behaviour/memory/_sync/test_memory_system.py tests/behaviour/memory/_sync/test_opening.py tests/behaviour/memory/_sync/test_embeddings.py \
	tests/behaviour/memory/stores/test_sqlite_file.py tests/behaviour/memory/stores/test_sqlite_direct.py \
	tests/behaviour/memory/stores/_sync/test_store_writes.py \
	tests/unit/redis/test_pack_command.py tests/behaviour/transport/test_asyncio_multiplexing.py tests/behaviour/transport/test_blocking_threads.py \
	tests/behaviour/transport/_async/test_buffers.py tests/behaviour/transport/_sync/test_buffers.py

.PHONY: test-other-python
test-other-python: | check-rust
	@command -v "$(OTHER_PYTHON)" >/dev/null || { echo "missing: OTHER_PYTHON, an interpreter beside $(PYTHON)"; exit 1; }
	$(OTHER_PYTHON) -m venv --clear $(OTHER)
	CARGO_TARGET_DIR=$(abspath target/other-python) PYO3_PYTHON=$(abspath $(OTHER)/bin/python) \
		$(OTHER)/bin/pip wheel --quiet --no-deps --wheel-dir $(OTHER)/wheels .
	$(OTHER)/bin/pip install --quiet "$$(echo $(OTHER)/wheels/agent_memory_redis-*.whl)[test]"
	$(OTHER)/bin/python -m pytest $(OTHER_TESTS) $(PYTEST_ARGS)

# The whole Python suite, LOADED_RUNS times, beside three busy loops for each core, which are stopped whatever happens.
test-loaded: $(STAMPS)/extra-test $(STAMPS)/installed
	$(BIN)/python tools/under_load.py --runs $(LOADED_RUNS) -- $(BIN)/python -m pytest $(PYTEST_ARGS)

# redis-py's own tests with our classes in the place of its own; COMPAT_ARGS="--suite pooled --server valkey" chooses.
compat: $(STAMPS)/extra-compat $(STAMPS)/installed
	$(BIN)/python tests/compat/run.py --cache $(VENV)/compat $(COMPAT_ARGS)

# On each redis-py that the package accepts, in environments of their own: our tests of what stands on redis-py, and redis-py's
# own. COMPAT_VERSIONS="--quick 6.4.0 7.4.1" runs a few tests on these two.
COMPAT_VERSIONS ?=
.PHONY: compat-versions
compat-versions: $(STAMPS)/extra-compat $(STAMPS)/arq $(STAMPS)/installed
	$(BIN)/python tests/compat/versions.py --cache $(VENV)/versions $(COMPAT_VERSIONS)

lint: $(STAMPS)/extra-lint $(STAMPS)/extra-test $(STAMPS)/installed check-rust
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 \
		|| { echo "missing: rustfmt or clippy (rustup component add rustfmt clippy)"; exit 1; }
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/generate_sync.py --check
	$(BIN)/python tools/generate_typing.py --check
	$(BIN)/python tools/command_table.py --check
	$(BIN)/python tools/check_language.py
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m mypy.stubtest agent_memory._core
	$(BIN)/python tools/check_typing.py

format: $(STAMPS)/extra-lint
	cargo fmt --all
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(BIN)/python tools/generate_sync.py
	$(BIN)/python tools/generate_typing.py

generate: $(STAMPS)/extra-lint $(STAMPS)/installed
	$(BIN)/python tools/generate_sync.py
	$(BIN)/python tools/generate_typing.py
	$(BIN)/python tools/command_table.py

# One line per simulation: each prints what it ran, or the one line that reproduces what it found.
.PHONY: sim
sim: $(STAMPS)/extra-test $(STAMPS)/installed
	$(BIN)/python tests/sim/memory_simulation.py --seeds $(SEEDS)
	$(BIN)/python tests/sim/client_simulation.py --seeds $(CLIENT_SEEDS)
	CLUSTER_SEEDS=$(CLUSTER_SEEDS) cargo test --release --quiet --package agent-memory-core --test cluster_simulation
	CACHE_SEEDS=$(CACHE_SEEDS) cargo test --release --quiet --package agent-memory-core --test cache_simulation

# Random programs over the memory system on each database, against a model, for long (docs/how-to/long-tests.md).
MACHINE_EXAMPLES ?= 500
MACHINE_STEPS ?= 50
.PHONY: memory-machine
memory-machine: $(STAMPS)/extra-test $(STAMPS)/installed
	MACHINE_EXAMPLES=$(MACHINE_EXAMPLES) MACHINE_STEPS=$(MACHINE_STEPS) \
		$(BIN)/python -m pytest -q tests/machines $(PYTEST_ARGS)

# Streams of replies from a server on a real socket, for long.
STREAM_EXAMPLES ?= 3000
.PHONY: streams
streams: $(STAMPS)/extra-test $(STAMPS)/installed
	STREAM_EXAMPLES=$(STREAM_EXAMPLES) $(BIN)/python -m pytest -q tests/machines/test_reply_streams.py --timeout 7200 $(PYTEST_ARGS)

# The tests' share of the places (each run others) is made all of them (docs/how-to/long-tests.md).
INTERRUPTS_EVERY ?= 1
.PHONY: interrupts
interrupts: $(STAMPS)/extra-test $(STAMPS)/installed
	INTERRUPTS_EVERY=$(INTERRUPTS_EVERY) $(BIN)/python -m pytest -q --timeout 1200 tests/machines -k interrupts $(PYTEST_ARGS)

# The tests' cancels and 10,000 calls of each kind are made many.
CANCELS ?= 100000
LEAK_CALLS ?= 1000000
.PHONY: cancels leaks
cancels: $(STAMPS)/extra-test $(STAMPS)/installed
	CANCELS=$(CANCELS) $(BIN)/python -m pytest -q tests/behaviour/transport/test_asyncio_round_trip.py -k storm $(PYTEST_ARGS)

leaks: $(STAMPS)/extra-test $(STAMPS)/installed
	LEAK_CALLS=$(LEAK_CALLS) $(BIN)/python -m pytest -q tests/behaviour/transport/test_asyncio_leaks.py $(PYTEST_ARGS)

# Every mutant of a file of the core is built and held against the tests named after it. A seed of its own, so that what one
# run finds the next one finds; no shrinking, since only the verdict matters. The library's own tests of the scoring are not
# what these files are held against. What survives stands in target/mutants/.
CARGO_MUTANTS_VERSION := 27.1.0
MUTATED ?= backoff breaker budget cluster expiry fence guard plan recovery retry window
MUTANTS_FILES_backoff := guard/backoff.rs
MUTANTS_FILES_breaker := guard/breaker.rs
MUTANTS_FILES_budget := guard/budget.rs
MUTANTS_FILES_cluster := cluster/{pipeline,plan,redirect,refresh,topology,waiting}.rs
MUTANTS_FILES_expiry := memory/expiry.rs
MUTANTS_FILES_fence := fence.rs
MUTANTS_FILES_guard := guard/mod.rs
MUTANTS_FILES_plan := memory/plan/*.rs
MUTANTS_FILES_recovery := recovery/*.rs
MUTANTS_FILES_retry := guard/retry.rs
MUTANTS_FILES_window := guard/window.rs
MUTANTS_TESTS_backoff := --test=backoff
MUTANTS_TESTS_breaker := --test=breaker
MUTANTS_TESTS_budget := --test=budget --test=guard
MUTANTS_TESTS_cluster := --test=cluster_simulation --test=cluster_pipeline --test=cluster_views --lib
MUTANTS_TESTS_expiry := --lib
MUTANTS_TESTS_fence := --test=fence
MUTANTS_TESTS_guard := --test=guard
MUTANTS_TESTS_plan := --test=memory_plan
MUTANTS_TESTS_recovery := --test=recovery --lib
MUTANTS_TESTS_retry := --test=guard
MUTANTS_TESTS_window := --test=windows
MUTANTS_ENVIRONMENT := PROPTEST_CASES=300 PROPTEST_RNG_SEED=1 PROPTEST_MAX_SHRINK_ITERS=0 \
	PROPTEST_DISABLE_FAILURE_PERSISTENCE=1

target/tools/mutants-$(CARGO_MUTANTS_VERSION): | check-rust
	cargo install --quiet --locked --root target/tools --version $(CARGO_MUTANTS_VERSION) cargo-mutants
	@touch $@

.PHONY: mutants $(addprefix mutants-,$(MUTATED))
mutants: $(addprefix mutants-,$(MUTATED))

$(addprefix mutants-,$(MUTATED)): mutants-%: target/tools/mutants-$(CARGO_MUTANTS_VERSION)
	@mkdir -p target/mutants/$*
	$(MUTANTS_ENVIRONMENT) CARGO_TARGET_DIR=$(abspath target/mutants/$*/build) target/tools/bin/cargo-mutants mutants \
		--package agent-memory-core --file 'rust/core/src/$(MUTANTS_FILES_$*)' $(addprefix --cargo-arg=,$(MUTANTS_TESTS_$*)) \
		--cargo-test-arg=-- --cargo-test-arg=--skip=scoring --output target/mutants/$*

.PHONY: kills
kills: $(STAMPS)/extra-test $(STAMPS)/installed
	RECOVERY_KILLS=$(KILLS) $(BIN)/python -m pytest tests/behaviour/recovery/test_kills.py -k killed --timeout 7200
	MEMORY_KILLS=$(KILLS) $(BIN)/python -m pytest tests/faults/test_memory_kills.py --timeout 7200

# --- what it does and how fast ------------------------------------------------------------------------------------------

demo: $(STAMPS)/extra-demo $(STAMPS)/installed
	PYTHONPATH=examples $(BIN)/python -m demo $(DEMO_ARGS)

# Every bench_NAME.py is a script of its own and prints its table; BENCH=core chooses those whose name contains it.
bench: $(STAMPS)/extra-bench $(STAMPS)/installed
	@for bench in benches/python/bench_*$(BENCH)*.py; do \
		echo "--- $$bench"; $(BIN)/python "$$bench" || exit 1; \
	done
	$(if $(BENCH),,$(BIN)/python -m pytest benches/python --benchmark-only $(PYTEST_ARGS))

# Load does not move it: CI holds the ratios to the ceiling scripts within 3 %.
.PHONY: instructions
instructions: $(STAMPS)/extra-test $(STAMPS)/installed
	@command -v valgrind >/dev/null || { echo "missing: valgrind; on Debian: apt-get install valgrind"; exit 1; }
	$(BIN)/python benches/python/count_instructions.py --check
	$(BIN)/python benches/python/count_cluster_instructions.py --check

clean:
	rm -rf $(VENV) target dist demo-report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find python tests benches tools -name __pycache__ -type d -prune -exec rm -rf {} +

# --- scoring: the unsafe kernels under valgrind (needs valgrind), and the benches beside their peers -----------------

.PHONY: memcheck-scoring sanitize-scoring bench-scoring
memcheck-scoring: | check-rust
	cargo test --package agent-memory-core --no-run
	PROPTEST_CASES=20 valgrind -q --error-exitcode=9 \
		$$(ls -t target/debug/deps/agent_memory_core-* | grep -v '\.d$$' | head -1) scoring::kernels scoring::index::codes

# The same under AddressSanitizer, which knows AVX-512 where valgrind stops at AVX2. Its run-time library comes with every
# toolchain; RUSTC_BOOTSTRAP lets a stable compiler take the flag that asks for it.
sanitize-scoring: | check-rust
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" PROPTEST_CASES=$${PROPTEST_CASES:-200} cargo test --quiet \
		--package agent-memory-core --lib --target $$(rustc -vV | sed -n 's/^host: //p') --target-dir target/asan scoring

# The NEON kernels, and what of the core scores with them: compiled for aarch64 and run under an emulator. Compiler,
# C library and emulator are unpacked from Debian packages into target/, nothing is installed.
NEON_ROOT := $(abspath target/neon/toolchain/root)
NEON_LIBRARIES := $(NEON_ROOT)/usr/lib/x86_64-linux-gnu:$(NEON_ROOT)/lib/x86_64-linux-gnu

.PHONY: test-neon
target/neon/toolchain.stamp: tools/aarch64_toolchain.sh
	tools/aarch64_toolchain.sh target/neon/toolchain
	@touch $@

test-neon: target/neon/toolchain.stamp | check-rust
	RUSTC=$(NEON_ROOT)/usr/bin/rustc LD_LIBRARY_PATH=$(NEON_LIBRARIES) PROPTEST_CASES=$${PROPTEST_CASES:-200} \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$(NEON_ROOT)/usr/bin/aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-Dwarnings -Clink-arg=--sysroot=$(NEON_ROOT)" \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(NEON_ROOT)/usr/bin/qemu-aarch64-static -L $(NEON_ROOT)" \
		cargo test --package agent-memory-core --lib --target aarch64-unknown-linux-gnu --target-dir target/neon scoring

# Coverage-guided, on stable Rust: the coverage pass is asked for by name, and the crate compiles libFuzzer (needs a C++
# compiler). A panic, a failed assertion, an overflow or more than 2 GB stops it and leaves the input beside it.
FUZZ_S ?= 60
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing

.PHONY: fuzz
fuzz: | check-rust
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --manifest-path rust/fuzz/Cargo.toml --target-dir target/fuzz \
		--target $$(rustc -vV | sed -n 's/^host: //p')
	@for target in snapshot tokeniser journal replies cluster; do \
		mkdir -p target/fuzz/corpus/$$target && \
		target/fuzz/$$(rustc -vV | sed -n 's/^host: //p')/release/$$target -max_total_time=$(FUZZ_S) \
			-artifact_prefix=target/fuzz/$$target- target/fuzz/corpus/$$target || exit 1; \
	done

# In an environment that has the wheel and the `bench` extra.
bench-scoring:
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 taskset -c 0 $(BIN)/python benches/python/bench_scoring_exact.py
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 taskset -c 0 $(BIN)/python benches/python/bench_scoring_index.py
	OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 $(BIN)/python benches/python/bench_scoring_index.py batch
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benches/python/bench_scoring_scaling.py target/scoring-scaling.svg
	cargo run --quiet --release --package agent-memory-core --example reader_wait
