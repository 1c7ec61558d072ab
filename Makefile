# Set-up, tests and checks. Needs Python 3.11+, Rust 1.88+ and a C/C++ compiler; the rest goes into .venv.
# Choose the interpreter with PYTHON=python3.12 make ...

.DEFAULT_GOAL := help
# The targets share .venv and target/, and their closing lines are read in order.
.NOTPARALLEL:
.DELETE_ON_ERROR:

PY := .venv/bin/python
# The interpreter that makes .venv.
BASE = python=$$(sh tools/python.sh) && "$$python"
CARGO_FLAGS := --workspace --locked

# .venv is made anew where its Python is gone, in a moved checkout, and where PYTHON asks for another version. With no
# PYTHON, .venv's own stays.
MADE := $(shell if [ -x $(PY) ]; then cat .venv/.made 2>/dev/null; else echo gone; fi)
ASKED := $(if $(PYTHON),$(shell $$(PYTHON='$(PYTHON)' sh tools/python.sh 2>/dev/null) -c 'import platform; print(platform.python_version())')|)
FRESH := $(if $(MADE),$(if $(findstring |$(CURDIR)|$(ASKED),$(MADE)),,--fresh))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-23s%s\n", $$1, $$2 }'

demo: .venv/.core ## rehearse answers with the embedded model, from set-up to replay
	@.venv/bin/matrix demo

test: lint test-rust test-python ## lint, then all tests that need no GPU and no model file

lint: lint-rust lint-python ## check formatting, clippy, types and stubs

lint-rust: check
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
	    { echo "set-up: cargo has no fmt or clippy: rustup component add rustfmt clippy" >&2; exit 1; }
	cargo fmt --all --check
	PYO3_NO_PYTHON=1 cargo clippy $(CARGO_FLAGS) --all-targets --features python -- -D warnings

lint-python: .venv/.core
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m mypy.stubtest matrix_py._core --mypy-config-file pyproject.toml

# In release, as the core is built: what both depend on is compiled once.
test-rust: check ## the Rust tests; no Python module is built
	cargo test $(CARGO_FLAGS) --release

# A process for each CPU, hyperthreads included; a file's tests stay together, since they share what was dear to make.
# Threads of one that wait do not spin: the other has work for their CPU.
test-python: .venv/.core .venv/.train .venv/.vocab ## the Python tests; more with: make test-python ARGS="-k replay"
	OMP_WAIT_POLICY=passive $(PY) -m pytest -n logical --dist loadfile $(ARGS)

format: .venv/.deps ## format Rust and Python, and sort imports
	cargo fmt --all
	$(PY) -m ruff check --select I --fix
	$(PY) -m ruff format

build: .venv/.core ## set up .venv and build the Rust core

train: .venv/.core .venv/.train ## install what `matrix tune` needs besides (3 GB for torch)

# Goes on where it was stopped; build/embedded can be removed to begin anew.
embedded-model: .venv/.core .venv/.train ## train the embedded model anew (an hour and a half on two cores; 3 GB for torch)
	$(PY) -m matrix_py.embedded.train build/embedded
	$(PY) -m matrix_py.embedded.evaluate build/embedded/model.gguf
	cp build/embedded/model.gguf matrix_py/embedded/model.gguf

record: .venv/.core ## record the golden runs again, on purpose: replays/README.md says when
	$(PY) replays/make.py

vocab: .venv/.vocab ## fetch the vocabularies that some tests read

check: # what a build needs and cannot fetch
	@$(BASE) tools/check.py

.venv/.deps: pyproject.toml constraints.txt $(if $(FRESH),FORCE)
	@$(BASE) tools/setup.py deps $(FRESH)

CORE_SOURCES := Cargo.toml Cargo.lock $(shell find rust_core -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
.venv/.core: .venv/.deps $(CORE_SOURCES) $(if $(wildcard matrix_py/_core*.so),,FORCE)
	@$(BASE) tools/setup.py core

# `matrix tune` and the embedded model need it; runs, replays and the demo do not.
.venv/.train: .venv/.deps
	@$(PY) tools/setup.py train

# Not there after a failure, which is a warning: the tests skip, and the next make tries again.
.venv/.vocab: .venv/.deps
	@$(PY) tools/setup.py vocab

clean: ## remove what was built, keep .venv
	rm -rf target matrix_py/_core*.so .venv/.core .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find matrix_py tests tools -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf .venv

FORCE:
.PHONY: help demo test lint lint-rust lint-python test-rust test-python format build train embedded-model record vocab check clean distclean FORCE
