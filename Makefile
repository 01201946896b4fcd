# Every command, from a fresh clone: each makes .venv/ and builds the extension first, if that is still to be done.
# `make help` lists them. Another Python: make PYTHON=python3.12 test. Arguments: make bench-cpu ARGS="--dtype bfloat16".

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
CPP_FILES = $(shell find csrc tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# A change of these makes .venv/ or the extension anew. PYTHON counts only if somebody chose it.
CHOSEN_PYTHON := $(if $(filter file default undefined,$(origin PYTHON)),,$(PYTHON))
OPTIONS := $(CHOSEN_PYTHON) CONVX_CUDA=$(CONVX_CUDA) TORCH_CUDA_ARCH_LIST=$(TORCH_CUDA_ARCH_LIST) CXX=$(CXX)

# A test process to a processor; if that package could not be installed, one. ARGS="-n 0" for one as well. Threads that
# spin as they wait would take the other processes' processors.
PYTEST = OMP_WAIT_POLICY=passive $(PY) -m pytest -q $(PARALLEL)
PARALLEL = $(shell $(PY) -c "import xdist" 2>/dev/null && echo --numprocesses auto --dist worksteal)

# Of a compiler's long command line, as ninja shows it, which file it compiles.
SHORTER := 's/^(\[[0-9]+\/[0-9]+\]) .* (-c )+($(subst /,\/,$(CURDIR))\/)?(\S+) .*/\1 \4/'

.DEFAULT_GOAL := help
.NOTPARALLEL:  # the commands share the machine, and ninja runs its own jobs
unexport MAKEFLAGS MFLAGS  # so that ninja does not ask make for job slots that it can't give
.PHONY: help demo test test-exhaustive bench-cpu bench-cuda bench-networks bench-padding bench-overhead bench-scaling \
        bench-per-sample bench-memory lint format cuda-build cuda-compile cuda-report cuda-sanitize build clean FORCE

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 18

demo: build  ## the notebooks' examples, an autoencoder on photographs, a short table beside torch
	@$(PY) -m examples.demo $(ARGS)

test: build $(VENV)/requirements-test.ready  ## the test suite: about twenty minutes on 2 cores
	@$(PYTEST) $(ARGS)

test-exhaustive: build $(VENV)/requirements-test.ready  ## the full cross product of the same tests: hours
	@CONVX_TEST_EXHAUSTIVE=1 $(PYTEST) $(ARGS)

bench-cpu: build  ## convx beside torch over the shapes of real networks
	@$(PY) -m benchmarks.run --device cpu $(ARGS)

bench-cuda: build  ## the same on a GPU, beside cuDNN in both layouts and with its own search on and off
	@$(PY) -m benchmarks.run --device cuda --layout best $(ARGS)

bench-networks: build  ## training steps of five networks, with torch's layers and converted
	@$(PY) -m benchmarks.networks $(ARGS)

bench-padding: build  ## padding modes beside torch's F.pad and convolution
	@$(PY) -m benchmarks.padding $(ARGS)

bench-overhead: build  ## what small calls cost
	@$(PY) -m benchmarks.overhead $(ARGS)

bench-scaling: build  ## what a second thread brings, and that it changes no bit
	@$(PY) -m benchmarks.scaling $(ARGS)

bench-per-sample: build  ## gradients of each sample, by vmap of grad, of small CNNs
	@$(PY) -m benchmarks.per_sample $(ARGS)

bench-memory: build  ## what calls take at their peak over operands and result
	@$(PY) -m benchmarks.memory $(ARGS)

lint: $(VENV)/requirements-lint.ready  ## what CI checks about formatting and style
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/requirements-lint.ready  ## formats the Python, C++ and CUDA sources
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .
	@$(VENV)/bin/clang-format -i $(CPP_FILES)

cuda-build: $(VENV)/requirements.ready  ## builds the extension against torch's CUDA build, no GPU needed (about 5 GB)
	@$(PY) tools/cuda_build.py $(ARGS)

cuda-compile: $(VENV)/requirements.ready $(VENV)/requirements-cuda.ready  ## compiles the CUDA kernels, checks their machine code, no GPU needed
	@$(PY) tools/cuda_compile.py $(ARGS)

cuda-report: $(VENV)/requirements.ready $(VENV)/requirements-cuda.ready  ## registers, shared memory and occupancy of the CUDA kernels, no GPU needed
	@$(PY) tools/cuda_report.py $(ARGS)

cuda-sanitize: build  ## the CUDA kernels on a GPU under compute-sanitizer: memory, races, uninitialised memory, barriers
	@$(PY) tools/cuda_sanitize.py $(ARGS)

build: .make/built  ## the extension, in place (every command above does this first)

clean:  ## removes what was built, and .venv/
	rm -rf $(VENV) .venv-cuda .make build out convx/_C*.so

.make/built: $(VENV)/requirements.ready .make/options setup.py pyproject.toml $(shell find csrc) \
             $(if $(wildcard convx/_C*.so),,FORCE)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) setup.py -q build_ext --inplace 2>&1 | sed -uE $(SHORTER)
	@touch $@

$(VENV)/%.ready: %.txt tools/bootstrap.py .make/options
	@command -v $(PYTHON) >/dev/null || { echo "convx: no $(PYTHON): apt install python3"; exit 1; }
	@$(PYTHON) tools/bootstrap.py $(if $(CHOSEN_PYTHON),--python-given) $<

# Rewritten only when the options change, so that only a change makes it newer.
.make/options: FORCE
	@mkdir -p .make && echo '$(OPTIONS)' | cmp -s - $@ || echo '$(OPTIONS)' > $@
