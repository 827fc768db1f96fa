# Everything a developer or CI runs. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_BUILD := build/native-test
TSAN_BUILD := build/native-tsan
SANITIZED_BUILD := build/native-sanitized
SANITIZED_TESTS ?= tests/codecs tests/native tests/cache/test_damage.py tests/cache/test_ranges.py tests/shards/test_rounding.py
# Test processes at once. More than there are cores makes tests with limits of time late.
TEST_PROCESSES ?= $(shell nproc)
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint format type native native-test sanitized-test fuzz-smoke bench-peers bench-smoke gpu-check plan-check stress check clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

system: ## Install the system packages that are missing (needs root or sudo)
	@PYTHON='$(PYTHON)' bash tools/install-system-packages.sh

setup: system $(VENV)/.installed ## Create .venv, install everything, build the native module

$(VENV)/.installed: pyproject.toml constraints.txt $(shell find native -name '*.[ch]pp' -o -name CMakeLists.txt)
	@PYTHON='$(PYTHON)' bash tools/setup-venv.sh $(VENV)
	@touch $@

native: ## Rebuild the native module in place
	@flock .build.lock $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .

demo: setup ## Run the whole data plane on generated data and print what it did
	$(BIN)/dataplane demo $(DEMO_ARGS)

test: setup ## Run every test that needs no GPU
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

stress: setup ## Run the tests of tests/stress in full: kills, damage, power cuts, bad weather
	DATAPLANE_STRESS=full $(BIN)/python -m pytest tests/stress -o faulthandler_timeout=3600 $(PYTEST_ARGS)

lint: setup ## Check format, style and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: setup ## Rewrite the Python files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

type: setup ## Check the types
	$(BIN)/mypy

CMAKE_CORE = $(BIN)/cmake -S native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DDATAPLANE_BUILD_PYTHON=OFF -DDATAPLANE_BUILD_TESTS=ON -DDATAPLANE_WERROR=ON
native-test: setup ## Test the native core without Python: all of it under ASan and UBSan, its threads under TSan
	$(CMAKE_CORE) -B $(NATIVE_BUILD) -DDATAPLANE_SANITIZE=address,undefined
	$(BIN)/cmake --build $(NATIVE_BUILD)
	$(BIN)/ctest --test-dir $(NATIVE_BUILD) --output-on-failure --parallel $(shell nproc)
	$(CMAKE_CORE) -B $(TSAN_BUILD) -DDATAPLANE_SANITIZE=thread
	$(BIN)/cmake --build $(TSAN_BUILD) --target threaded_tests
	$(BIN)/ctest --test-dir $(TSAN_BUILD) --output-on-failure --parallel $(shell nproc) -L threads

# The sanitizer's library has to be there before Python, which is built without it.
sanitized-test: setup ## Run the Python tests of native code with a module built under ASan and UBSan
	$(BIN)/cmake -S native -B $(SANITIZED_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DDATAPLANE_SANITIZE=address,undefined
	$(BIN)/cmake --build $(SANITIZED_BUILD)
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python tools/sanitized_pytest.py $(SANITIZED_BUILD)/_native*.so -q $(SANITIZED_TESTS)

fuzz-smoke: setup ## Fuzz every native parser for a minute (needs clang, and installs it where it may)
	@PATH="$(abspath $(BIN)):$$PATH" bash tools/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

bench-peers: setup ## Install LitData and MosaicML Streaming, for dataplane bench loader
	@bash tools/install-bench-peers.sh $(BIN)/python

bench-smoke: setup ## Run every benchmark once on tiny inputs, so that none rots
	$(BIN)/dataplane bench decode --smoke
	$(BIN)/dataplane bench store --smoke
	$(BIN)/dataplane bench loader --smoke
	$(BIN)/dataplane bench cache --smoke
	$(BIN)/dataplane bench cache --tls --part fill --smoke
	$(BIN)/dataplane bench gpu --smoke

# On a machine with torch and CUDA; PYTHON says whose. GPU_WHEELS is a folder of wheels for one that is not connected.
gpu-check: ## Check and time the GPU route on this machine, and write the figures into docs/gpu.md
	@GPU_WHEELS='$(GPU_WHEELS)' OMP_NUM_THREADS=1 $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tools/gpu_check.py $(GPU_CHECK_ARGS)

plan-check: ## Compare predictions of `dataplane plan` with runs on an emulated cloud, time included
	@$(BIN)/python tools/validate_plan.py

check: lint type native-test test bench-smoke ## Everything that CI runs

clean: ## Remove what was built (not .venv)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
