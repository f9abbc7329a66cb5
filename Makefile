# The front door of BitLab. Every target installs what it lacks (tools/setup.sh), so that a fresh clone needs nothing else.
SHELL := /bin/bash -euo pipefail
JOBS ?= $(shell nproc)
CTEST_ARGS ?=
CXXFLAGS_FULL := -O0 -O3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The torch-free libraries, and the tools in the versions that the repository is formatted and checked with.
TORCH_FREE := base|ternary|config|kernels|program|format|runtime|data|cli/run
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-14 clang-format))
RUN_CLANG_TIDY ?= $(firstword $(shell command -v run-clang-tidy-14 run-clang-tidy))
CPP_FILES = git ls-files --cached --others --exclude-standard '*.h' '*.cc'

CONFIGURE = cmake --preset $(1) $(if $(BITLAB_TORCH_DIR),-DBITLAB_TORCH_DIR=$(BITLAB_TORCH_DIR))
BUILD = cmake --build --preset $(1) --parallel $(JOBS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo results test others quick test-full runtime bench lint format coverage asan tsan aarch64 embedded mobile cuda fuzz docs clean setup setup-runtime setup-cuda setup-tests setup-dev setup-peers setup-census micro-bench wheel census bench-training bench-models bench-sizes bench-formats bench-integers

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  JOBS=n sets the number of parallel jobs ($(JOBS)); BITLAB_TORCH_DIR=... uses a LibTorch of your own."

demo: build/release/build.ninja ## Train, deploy and run a small ternary network; results in out/demo
	$(call BUILD,release)
	build/release/bin/bitlab demo -o out/demo

results: demo ## Run the demo and write its figures into benchmarks/results, README.md and docs/images
	python3 tools/results.py --take out/demo/report.json

# The native part and the others run side by side, so that no core waits where one of them has a single long job. What the others
# print comes after the native part.
test: build/dev/build.ninja ## Run every test: natively, under the sanitizers, and for 64-bit Arm under qemu
	@$(MAKE) --no-print-directory others >build/others.log 2>&1 & others=$$!; trap 'kill $$others 2>/dev/null || true' EXIT; \
	$(MAKE) --no-print-directory quick; \
	tail -n +1 -f --pid=$$others build/others.log; wait $$others

others: asan tsan
	@if tools/setup.sh --aarch64; then $(MAKE) --no-print-directory aarch64; else \
	  echo "aarch64: NOT RUN: its cross-compiler and libraries could not be installed (see above)"; fi

quick: build/dev/build.ninja ## Run the native tests alone
	$(call BUILD,dev)
	ctest --preset dev --parallel $(JOBS) $(CTEST_ARGS)

test-full: test ## And with every shape, and by each compiler at -O0 and -O3 (hours)
	BITLAB_TEST_FULL=1 ctest --preset dev $(CTEST_ARGS)
	for cxx in $$(compgen -c | grep -xE '(g|clang)\+\+(-[0-9]+)?' | sort -u); do for flag in $(CXXFLAGS_FULL); do \
	  dir=build/full/$$cxx$$flag; \
	  cmake -S . -B $$dir -G Ninja -DCMAKE_CXX_COMPILER=$$cxx -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=$$flag \
	    -DBITLAB_TRAIN=OFF; \
	  cmake --build $$dir --parallel $(JOBS); \
	  ctest --test-dir $$dir --output-on-failure --no-tests=error $(CTEST_ARGS); \
	done; done

runtime: build/runtime/build.ninja ## Build the torch-free part alone: needs neither LibTorch nor Python
	$(call BUILD,runtime)
	@echo "The torch-free program is $(CURDIR)/build/runtime/bin/bitlab-run"

bench: build/bench/build.ninja setup-peers ## Measure kernels beside roofs and other runtimes (BENCH_ARGS="--take")
	$(call BUILD,bench) --target bitlab_bench
	.venv/bin/python benchmarks/bitlab_bench.py $(BENCH_ARGS)
	python3 tools/results.py

bench-models: build/dev/build.ninja setup-peers setup-census ## Measure whole networks beside LibTorch and ONNX Runtime (BENCH_ARGS="--take")
	$(call BUILD,dev) --target python
	PYTHONPATH=build/dev/python .venv/bin/python -W ignore benchmarks/models.py $(BENCH_ARGS)
	python3 tools/results.py

bench-sizes: build/dev/build.ninja setup-census ## Weigh whole networks on disk and in memory beside float32 (BENCH_ARGS="--take")
	$(call BUILD,dev) --target python
	PYTHONPATH=build/dev/python .venv/bin/python -W ignore benchmarks/sizes.py $(BENCH_ARGS)
	python3 tools/results.py

bench-formats: build/dev/build.ninja setup-peers setup-census ## Run networks in every format by its own programs (BENCH_ARGS="--take")
	$(call BUILD,dev) --target python
	PYTHONPATH=build/dev/python .venv/bin/python -W ignore benchmarks/formats.py $(BENCH_ARGS)
	python3 tools/results.py

bench-integers: build/release/build.ninja build/dev/build.ninja ## Classify MNIST by networks in C, in floats and in integers (BENCH_ARGS="--take")
	$(call BUILD,release) --target bitlab
	$(call BUILD,dev) --target python
	PYTHONPATH=build/dev/python .venv/bin/python benchmarks/integers.py $(BENCH_ARGS)
	python3 tools/results.py

bench-training: build/release/build.ninja setup-peers ## Measure training steps beside float32, plain PyTorch and brevitas (BENCH_ARGS="--take")
	$(call BUILD,release) --target bitlab_ops
	.venv/bin/python benchmarks/training_cost.py $(BENCH_ARGS)
	python3 tools/results.py

micro-bench: build/bench/build.ninja ## Run every micro-benchmark (BENCH_ARGS="--benchmark_filter=...")
	$(call BUILD,bench)
	for bench in build/bench/bin/*_bench; do echo "== $$bench"; $$bench $(BENCH_ARGS); done

lint: setup-dev build/lint/build.ninja ## Check formatting, layers, spelling and clang-tidy's findings
	$(CPP_FILES) | xargs $(CLANG_FORMAT) --dry-run -Werror
	python3 tools/check_layers.py
	codespell
	if command -v ruff >/dev/null; then ruff check .; fi
	if [[ -d build/dev/python ]]; then cd build/dev/python && ../../../.venv/bin/python -m mypy --config-file ../../../pyproject.toml -p bitlab; fi
	$(RUN_CLANG_TIDY) -quiet -p build/lint -j $(JOBS) '/bitlab/($(TORCH_FREE))/.*(?<!test)\.cc$$'

format: setup-dev ## Format the C++ files
	$(CPP_FILES) | xargs $(CLANG_FORMAT) -i

coverage: setup-dev build/coverage/build.ninja build/dev/build.ninja ## Measure line coverage; report in out/coverage
	$(call BUILD,coverage)
	find build/coverage -name '*.gcda' -delete
	ctest --preset coverage --parallel $(JOBS) $(CTEST_ARGS)
	mkdir -p out/coverage
	gcovr --root . --filter bitlab/ --exclude '.*_test\.cc|.*/test\.cc' --print-summary --html-details out/coverage/index.html \
	  build/coverage
	$(call BUILD,dev) --target python
	cd python/tests && PYTHONPATH=$(CURDIR)/build/dev/python $(CURDIR)/.venv/bin/python -m pytest --cov=bitlab \
	  --cov-report=term --cov-report=html:$(CURDIR)/out/coverage/python .

asan: build/asan/build.ninja ## Run the torch-free tests, broken files included, under AddressSanitizer and UBSan
	$(call BUILD,asan)
	ctest --preset asan --parallel $(JOBS) $(CTEST_ARGS)

tsan: build/tsan/build.ninja ## Run concurrent sessions, the thread pool and the weight cache under ThreadSanitizer
	$(call BUILD,tsan) --target ops_test base_test runtime_test
	ctest --preset tsan --parallel $(JOBS) $(CTEST_ARGS)

aarch64: ## Build for 64-bit Arm and run the torch-free tests under qemu
	tools/setup.sh --aarch64
	$(MAKE) --no-print-directory build/aarch64/build.ninja
	$(call BUILD,aarch64)
	ctest --preset aarch64 --parallel $(JOBS) $(CTEST_ARGS)

embedded: build/dev/build.ninja ## Run networks in C on microcontrollers, RISC-V and Arm under qemu; installs their compilers (0.9 GiB)
	tools/setup.sh --embedded
	$(call BUILD,dev) --target c_source_test
	ctest --preset dev -R '^c_source_test$$' $(CTEST_ARGS)

mobile: ## Build libbitlab for phones, run the golden operations on it under qemu, and print its size
	tools/setup.sh --aarch64
	$(MAKE) --no-print-directory build/mobile/build.ninja
	$(call BUILD,mobile)
	ctest --preset mobile --parallel $(JOBS) $(CTEST_ARGS)
	@cmake -DFILE=build/mobile/lib/libbitlab.so.stripped -P cmake/print_size.cmake

cuda: build/cuda/build.ninja ## Build the kernels for NVIDIA GPUs, and check their machine code; needs no GPU
	$(call BUILD,cuda)
	python3 tools/check_cuda_code.py build/cuda/lib/libbitlab_cuda.so
	@echo "The plug-in is $(CURDIR)/build/cuda/lib/libbitlab_cuda.so"

wheel: setup-tests ## Build the Python wheel, repair it for other machines, test it in a fresh environment (PYTHON=, TORCH=)
	tools/wheel.sh

census: setup-census build/dev/build.ninja ## Take models that others wrote through conversion, training, deployment (CENSUS_ARGS="--take")
	$(call BUILD,dev)
	PYTHONPATH=build/dev/python .venv/bin/python tools/census.py $(CENSUS_ARGS)

fuzz: setup-dev build/fuzz/build.ninja ## Run every fuzzer for FUZZ_SECONDS (60) each; new inputs in out/fuzz
	$(call BUILD,fuzz)
	for fuzzer in build/fuzz/bin/fuzz_*; do mkdir -p out/$${fuzzer##*/}; \
	  $$fuzzer -max_total_time=$(or $(FUZZ_SECONDS),60) -max_len=65536 -print_final_stats=1 out/$${fuzzer##*/}; done

docs: setup-dev build/dev/build.ninja ## Build the documentation site into out/docs
	$(call BUILD,dev) --target python
	.venv/bin/python -m sphinx -W --keep-going -q -b html docs out/docs
	@echo "The site is $(CURDIR)/out/docs/index.html"

clean: ## Remove build/ and out/
	rm -rf build out

setup:
	tools/setup.sh

setup-runtime:
	tools/setup.sh --runtime

setup-cuda:
	tools/setup.sh --cuda

setup-tests:
	tools/setup.sh --tests

setup-census:
	tools/setup.sh --census

setup-dev:
	tools/setup.sh --dev

setup-peers:
	tools/setup.sh --peers

# CMake runs here once a preset; later changes to CMake files are seen by ninja itself.
build/runtime/build.ninja: CMakePresets.json | setup-runtime
	$(call CONFIGURE,runtime)
	@touch $@

build/cuda/build.ninja: CMakePresets.json | setup-cuda
	$(call CONFIGURE,cuda)
	@touch $@

build/dev/build.ninja: CMakePresets.json | setup-tests
	$(call CONFIGURE,dev)
	@touch $@

build/%/build.ninja: CMakePresets.json | setup
	$(call CONFIGURE,$*)
	@touch $@
