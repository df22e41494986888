# SPDX-License-Identifier: Apache-2.0
# `make demo`, `make test` and `make check` do everything from a bare checkout. Stamps inside .venv
# make a second run quick.
PYTHON ?= python3
CXX ?= g++
SANITIZE ?= address,undefined
CLANGXX ?= clang++
STRESS_SECONDS ?= 10
FUZZ_SECONDS ?= 10
CUDA_KERNELS := ON
# GPU kernels of the demo: where there is a GPU. `make demo CUDA=ON` asks for them.
CUDA ?= $(shell tests/support/build/check_gpu.sh $(PYTHON) 2>/dev/null && echo AUTO || echo OFF)
export CXX
# What `--no-compile` leaves to the first import, for the many programs that tests start.
unexport PYTHONDONTWRITEBYTECODE

# Configurations share objects, and so do a build and the next after `rm -rf .venv`.
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CMAKE_CUDA_COMPILER_LAUNCHER ?= ccache
export CCACHE_DIR ?= $(CURDIR)/build/ccache
export CCACHE_BASEDIR ?= $(CURDIR)
endif

BIN := .venv/bin
PIP := $(BIN)/python -m pip
# Python compiles what it imports; most of torch and transformers never is.
INSTALL := $(PIP) install -q --no-compile
STAMPS := .venv/stamps
MODEL := tests/models/tiny-mixtral
PACK := build/demo/tiny-mixtral.adapmoe
PROMPT := The function returns
BENCH_DIR ?= build/bench
BENCH_PACK := $(BENCH_DIR)/tiny-mixtral.adapmoe
WIDE_PACK := $(BENCH_DIR)/mixtral-wide.adapmoe
PAIRED_NARROW := $(BENCH_DIR)/tiny-mixtral-int4.adapmoe
PAIRED_PACK := $(BENCH_DIR)/mixtral-wide-int4.adapmoe
PAIRING_OPTIONS ?=
BENCH_OPTIONS ?= --prompt-tokens 64 --warmup 8 --tokens 32
BOOT_PACK := build/boot/mid.adapmoe
STRESS_PACK := build/stress/tiny-mixtral.adapmoe
STRESS := stress-thread stress-address,undefined
SANITIZED := build/sanitize-address,undefined/cmake
RUN_PARTS := $(PYTHON) tests/support/build/run_parts.py
# Other parts, or none, for these.
LEFT_OUT := not emulated and not aarch64 and not deb and not slow
ARM_PYTHON := build/aarch64/python
FUZZERS := manifest_fuzz safetensors_fuzz

BUILD_FILES := pyproject.toml CMakeLists.txt runtime/CMakeLists.txt runtime/find_nvcc.cmake runtime/cuda.cmake runtime/tensorrt.cmake runtime/tools/CMakeLists.txt
PACKAGE_CPP := $(shell find runtime tests/cpp tests/cuda_emulation tests/tensorrt_emulation -name '*.cc' -o -name '*.h' -o -name '*.cu')
CPP_FILES := $(PACKAGE_CPP) $(wildcard tests/stress/*.cc tests/stress/*.h tests/fuzz/*.cc)
PACKAGE_FILES := $(BUILD_FILES) $(PACKAGE_CPP) \
  $(shell find python export/adapmoe_export -name '*.py' -o -name '*.pyi' -o -name 'py.typed')

.PHONY: demo test check bench venv lint tidy-changed tidy types pytest slow sanitize stress $(STRESS) fuzz try-fuzz \
  aarch64 try-aarch64 aarch64-wheel deb try-deb boot boot-emulated gpu-kernels gpu-tests gpu-bundle gpu-rehearsal clean cuda-tools
.DELETE_ON_ERROR:

demo: $(PACK)/manifest.json
	$(BIN)/adapmoe run $(PACK) -p "$(PROMPT)" -n 64 --temperature 0 --experts-resident 50%

# What every change must pass, in minutes.
test:
	@$(RUN_PARTS) test venv lint types pytest

# What takes longer. Both end with the seconds of each part.
check:
	@$(RUN_PARTS) check venv slow sanitize stress try-fuzz gpu-kernels try-aarch64 try-deb tidy

# The model of the demo at the size of Mixtral-8x7B's layers, made once in $(BENCH_DIR): 6.8 GB, and
# 13.1 GB to pair with llama.cpp (all int4, and as GGUF). On a quiet machine; nothing is judged. Rows
# with a memory limit need root.
bench: $(STAMPS)/bench-tools $(WIDE_PACK)/calibration.json $(PAIRED_PACK)/calibration.json
	for share in 50% 25%; do \
	  $(BIN)/adapmoe bench $(WIDE_PACK) --experts-resident $$share --text tests/text/evaluation.txt \
	    $(BENCH_OPTIONS) --ablation --profile || exit 1; \
	done
	$(BIN)/adapmoe bench $(PAIRED_PACK) --experts-resident 100% --text tests/text/evaluation.txt \
	  $(BENCH_OPTIONS) --profile
	$(BIN)/python -m benchmarks.pairing $(PAIRED_PACK) $(PAIRING_OPTIONS)

venv: $(STAMPS)/test

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	$(BIN)/python -m pytest -q tests/lint
	$(MAKE) tidy-changed

TIDY := $(BIN)/python tests/support/build/tidy.py $(BIN)/clang-tidy build/tidy
tidy-changed: build/tidy/compile_commands.json
	$(TIDY) --changed

tidy: build/tidy/compile_commands.json
	$(TIDY)

types: $(STAMPS)/test
	$(BIN)/mypy

# Two at a time, torch on one core each, but for what measures memory or time.
pytest: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --ignore=tests/lint -n 2 --dist worksteal -m "$(LEFT_OUT) and not memory and not alone"
	$(BIN)/python -m pytest -q -m "$(LEFT_OUT) and (memory or alone)" \
	  $$(grep -rlE "mark\.(memory|alone)" tests --include="test_*.py")  # reading all takes 15 s

slow: $(STAMPS)/test $(STAMPS)/slow-tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow and not emulated and not aarch64"

# The tests that run the most of C++. Left out: Python with a stand-in for the core, and programs that
# do once more what these do.
SANITIZED_TESTS := tests/native tests/fuzz tests/export/test_checksums.py \
  tests/export/test_packed_matrix.py $(patsubst %,tests/integration/test_%.py,fault_matrix fork \
  expert_states identity_gates interpreter_exit mutated_packs non_finite prefetch python_surface queue_depth \
  reader_choice session tools trace_replay warm_restart)
sanitize: $(STAMPS)/sanitize-$(SANITIZE)
	tests/support/build/sanitized.sh $(SANITIZE) build/sanitize-$(SANITIZE)/site $(BIN)/python -m pytest -q -n 2 --dist worksteal \
	  -m "$(LEFT_OUT) and not torch and not memory and not alone" $(SANITIZED_TESTS)

# Residency, readers, thread pool and sessions at random. ThreadSanitizer of GCC 12 does not run
# where the kernel randomises addresses widely, hence setarch where that is allowed.
stress: $(STRESS)
stress-thread: $(STRESS_PACK)/manifest.json
	$(CONFIGURE) -B build/stress-thread -DADAPMOE_PYTHON=OFF -DADAPMOE_STRESS=ON \
	  -DADAPMOE_SANITIZE=thread
	$(BIN)/cmake --build build/stress-thread --target adapmoe_stress
	$$(setarch -R true 2>/dev/null && echo setarch -R) env TSAN_OPTIONS=halt_on_error=1 \
	  build/stress-thread/tests/stress/adapmoe_stress --pack $(STRESS_PACK) --seconds $(STRESS_SECONDS)

# Of the build that `make sanitize` tests.
stress-address,undefined: $(STRESS_PACK)/manifest.json $(STAMPS)/sanitize-address,undefined
	$(SANITIZED)/tests/stress/adapmoe_stress --pack $(STRESS_PACK) --seconds 5

try-fuzz:
	@if reason="$$(tests/support/build/check_fuzzer.sh $(CLANGXX) 2>&1)"; then $(MAKE) fuzz; \
	  else echo "$@: skipped, $$reason"; fi

# New inputs and crashes go to build/fuzz; tests/fuzz/corpus is only read.
fuzz: $(STAMPS)/build-tools
	@tests/support/build/check_fuzzer.sh $(CLANGXX)
	CXX=$(CLANGXX) $(CONFIGURE) -B build/fuzz -DADAPMOE_PYTHON=OFF -DADAPMOE_FUZZ=ON \
	  -DADAPMOE_SANITIZE=fuzzer-no-link,address,undefined
	$(BIN)/cmake --build build/fuzz --target $(FUZZERS)
	@for fuzzer in $(FUZZERS); do \
	  corpus="corpus/$${fuzzer%_fuzz}"; log="build/fuzz/$$fuzzer.log"; \
	  mkdir -p "build/fuzz/$$corpus"; echo "$$fuzzer for $(FUZZ_SECONDS) s, log in $$log"; \
	  build/fuzz/tests/fuzz/$$fuzzer -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=8192 \
	    -print_final_stats=1 -dict=tests/fuzz/pack.dict -artifact_prefix=build/fuzz/ \
	    "build/fuzz/$$corpus" "tests/fuzz/$$corpus" >"$$log" 2>&1 || { tail -n 60 "$$log"; exit 1; }; \
	  grep stat::number_of_executed_units "$$log"; \
	done

try-aarch64:
	@if reason="$$(tests/support/build/check_aarch64.sh 2>&1)"; then $(MAKE) aarch64; \
	  else echo "$@: skipped, $$reason"; fi

# The core and its tools for 64-bit Arm; under emulation they must give this machine's bits. And the
# wheel, where headers of a Python for Arm are there.
aarch64: $(STAMPS)/test
	@tests/support/build/check_aarch64.sh
	$(CONFIGURE) -B build/aarch64 --toolchain tests/support/build/aarch64.cmake \
	  -DCMAKE_BUILD_TYPE=Release -DADAPMOE_PYTHON=OFF -DADAPMOE_TOOLS=ON -DADAPMOE_WERROR=ON
	$(BIN)/cmake --build build/aarch64
	rm -rf build/aarch64/wheel
	@if headers="$$(tests/support/build/arm_python.sh $(BIN)/python $(ARM_PYTHON) 2>&1)"; then \
	  $(MAKE) aarch64-wheel ARM_HEADERS="$$headers"; \
	else echo "aarch64: no wheel, $$headers"; fi
	$(BIN)/python -m pytest -q tests/integration/test_aarch64.py tests/integration/test_aarch64_wheel.py

# For Pythons of the version of .venv's, on systems with a C library no older than the compiler's.
aarch64-wheel: $(STAMPS)/test
	_PYTHON_HOST_PLATFORM=linux-aarch64 \
	  SETUPTOOLS_EXT_SUFFIX=".$$($(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)')-aarch64-linux-gnu.so" \
	  $(PIP) wheel -q . --no-build-isolation --no-deps -w build/aarch64/wheel \
	  -C build-dir=build/aarch64-wheel -C cmake.args=--toolchain=tests/support/build/aarch64.cmake \
	  -C cmake.define.Python_INCLUDE_DIR=$(ARM_HEADERS) -C cmake.define.ADAPMOE_WERROR=ON \
	  -C cmake.define.ADAPMOE_CUDA=OFF

try-deb:
	@if reason="$$(tests/support/build/check_deb.sh $(BIN)/python 2>&1)"; then $(MAKE) deb; \
	  else echo "$@: skipped, $$reason"; fi

# The Debian packages, their life in clean roots, which it needs root for, and in a booted systemd,
# which mostly waits; what cannot be had says so and is left out.
deb: $(STAMPS)/test $(BOOT_PACK)/manifest.json
	@tests/support/build/check_deb.sh $(BIN)/python
	rm -f build/deb/*.deb
	@for suite in jammy noble; do \
	  tests/support/deb/make_root.sh $$suite build/deb/roots/$$suite.tar & \
	done; \
	tests/support/deb/arm_python.sh build/deb/python-3.13-arm64 & \
	for target in "3.10 amd64" "3.12 amd64" "3.10 arm64" "3.12 arm64"; do \
	  set -- $$target; \
	  if reason="$$(tests/support/build/check_deb.sh $(BIN)/python $$target 2>&1)"; then \
	    PYTHON=$(BIN)/python jetson/deb/build.sh --python $$1 --arch $$2 || { wait; exit 1; }; \
	  else echo "deb: no package for Python $$target, $$reason"; fi; \
	done; wait
	@package="$$(ls build/deb/*+py3.10_amd64.deb 2>/dev/null)"; booting=; \
	if [ -n "$$package" ]; then \
	  $(BIN)/python tests/systemd/boot.py "$$package" $(BOOT_PACK) & booting=$$!; \
	fi; \
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/integration/test_deb.py; tests=$$?; \
	wait $$booting && exit $$tests

# The package's service in a booted systemd: in a container, and by hand in an emulated machine, where
# limits of memory hold, in ten minutes or more.
boot boot-emulated: $(BOOT_PACK)/manifest.json
	@if reason="$$(tests/support/build/check_deb.sh $(BIN)/python 3.10 amd64 2>&1)"; then \
	  package="$$(PYTHON=$(BIN)/python jetson/deb/build.sh --python 3.10 --arch amd64)" || exit 1; \
	  $(BIN)/python tests/systemd/boot.py $(patsubst boot-%,--%,$(filter boot-%,$@)) \
	    "$$(echo "$$package" | tail -n 1)" $(BOOT_PACK); \
	else echo "boot: skipped, $$reason"; fi

# The GPU kernels, run on the CPU, must give the CPU's bits; and nvcc, where it is, must take them
# for every GPU that a build serves: one that CUDACXX names must be able to. TENSORRT10_INCLUDE and
# TENSORRT11_INCLUDE are the folders of TensorRT's headers: its adapters are compiled, and run
# against libraries made of the headers.
gpu-kernels: $(STAMPS)/test
	$(CONFIGURE) -B build/emulated -DCMAKE_BUILD_TYPE=Release -DADAPMOE_PYTHON=OFF \
	  -DADAPMOE_TOOLS=ON -DADAPMOE_STRESS=ON -DADAPMOE_WERROR=ON -DADAPMOE_CUDA=EMULATED
	$(BIN)/cmake --build build/emulated
	rm -f build/cuda/runtime/tools/libadapmoe_trt*.so  # of an earlier configuration
	$(MAKE) cuda-tools CUDA_KERNELS=$(if $(CUDACXX),ON,AUTO)
	@for adapter in $$(cd build/cuda && ls runtime/tools/libadapmoe_trt*.so 2>/dev/null); do \
	  echo "gpu-kernels: compiled $$adapter"; \
	done
	$(BIN)/python -m pytest -q -m emulated -n 2 --dist worksteal  # each works one core

# The same tests on the GPU of this machine, and what needs a real one. Without pycuda one test
# fails; the others run.
gpu-tests: $(STAMPS)/test $(STAMPS)/slow-tools cuda-tools
	@$(MAKE) $(STAMPS)/gpu || echo "gpu-tests: pycuda cannot be installed, for the reason above"
	$(BIN)/python -m pytest -q -m gpu

# The same for a GPU machine that reaches no registry: tests/gpu_bundle/README.md.
gpu-bundle: $(PACK)/manifest.json
	$(BIN)/python tests/gpu_bundle/bundle.py $(PACK)

# Its archive, unpacked and run here without a network up to the first call of CUDA. Needs nvcc.
gpu-rehearsal: $(PACK)/manifest.json
	$(BIN)/python tests/gpu_bundle/bundle.py $(PACK) --out build/gpu-rehearsal.tar.gz \
	  --python "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
	tests/gpu_bundle/rehearse.sh $(BIN)/python build/gpu-rehearsal.tar.gz build/gpu-rehearsal

cuda-tools: $(STAMPS)/test
	$(CONFIGURE) -B build/cuda -DCMAKE_BUILD_TYPE=Release -DADAPMOE_PYTHON=OFF \
	  -DADAPMOE_TOOLS=ON -DADAPMOE_WERROR=ON -DADAPMOE_CUDA=$(CUDA_KERNELS) \
	  -DADAPMOE_TENSORRT10_INCLUDE="$(TENSORRT10_INCLUDE)" \
	  -DADAPMOE_TENSORRT11_INCLUDE="$(TENSORRT11_INCLUDE)"
	@if grep -qx 'ADAPMOE_GPU_FOLDER:INTERNAL=cuda' build/cuda/CMakeCache.txt; \
	  then $(BIN)/cmake --build build/cuda; else echo "nothing is compiled for a GPU"; fi

clean:
	rm -rf .venv build

# --- environments -------------------------------------------------------------------------------
$(STAMPS)/venv: tests/support/build/check_system.sh
	tests/support/build/check_system.sh $(PYTHON)
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade "pip>=25.1"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build-tools: pyproject.toml $(STAMPS)/venv
	$(INSTALL) --group build
	@touch $@

$(STAMPS)/dev-tools: pyproject.toml $(STAMPS)/build-tools
	$(INSTALL) --group dev
	@touch $@

# Half of a minute to install, for a few slow tests.
$(STAMPS)/slow-tools: pyproject.toml $(STAMPS)/dev-tools
	$(INSTALL) --group slow
	@touch $@

$(STAMPS)/bench-tools: pyproject.toml $(STAMPS)/demo
	$(INSTALL) --group bench
	@touch $@

# pycuda is compiled, with the headers and libraries of the folder that nvcc is in.
$(STAMPS)/gpu: pyproject.toml $(STAMPS)/build-tools
	PATH="/usr/local/cuda/bin:$$PATH" $(INSTALL) --group gpu
	@touch $@

# What a user gets, plus the exporter: no torch, no transformers.
$(STAMPS)/demo: $(PACKAGE_FILES) $(STAMPS)/build-tools
	rm -f $(STAMPS)/test
	$(INSTALL) --no-build-isolation ".[export]" -C build-dir=build/release \
	  -C cmake.define.ADAPMOE_CUDA=$(CUDA)
	@cat build/release/parts.txt
	@touch $@

# The demo's installation plus tests and the module adapmoe._testing: it serves the demo too. The
# tools are only built.
$(STAMPS)/test: $(PACKAGE_FILES) $(STAMPS)/dev-tools
	$(INSTALL) --no-build-isolation ".[test]" -C build-dir=build/test \
	  -C cmake.define.ADAPMOE_TESTING=ON -C cmake.define.ADAPMOE_TOOLS=ON \
	  -C cmake.define.ADAPMOE_WERROR=ON -C cmake.define.ADAPMOE_CUDA=OFF
	@cat build/test/parts.txt
	@touch $(STAMPS)/demo $@

# A third of the part's time is compiling: hence -O1.
$(STAMPS)/sanitize-%: $(STAMPS)/test
	rm -rf build/sanitize-$*/site
	$(INSTALL) --no-build-isolation --no-deps --target build/sanitize-$*/site . \
	  -C build-dir=build/sanitize-$*/cmake -C cmake.build-type=RelWithDebInfo \
	  -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 \
	  -C cmake.define.ADAPMOE_TESTING=ON -C cmake.define.ADAPMOE_SANITIZE=$* \
	  -C cmake.define.ADAPMOE_STRESS=ON -C cmake.define.ADAPMOE_CUDA=OFF
	@touch $@

# CMake without the Python package around it.
CONFIGURE = tests/support/build/configure.sh $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DADAPMOE_CUDA=OFF

# File by file: what a compiler is told of each, nothing compiled.
build/tidy/compile_commands.json: $(BUILD_FILES) $(CPP_FILES) $(STAMPS)/dev-tools
	$(CONFIGURE) -B build/tidy -DADAPMOE_UNITY=OFF -DADAPMOE_TOOLS=ON >/dev/null

$(PACK)/manifest.json: $(STAMPS)/demo $(wildcard $(MODEL)/*)
	rm -rf $(PACK) $(PACK).partial
	@mkdir -p $(dir $(PACK))
	$(BIN)/adapmoe export $(MODEL) $(PACK) --experts int4

$(BENCH_PACK)/calibration.json: $(wildcard $(MODEL)/*) | $(STAMPS)/demo
	rm -rf $(BENCH_PACK) $(BENCH_PACK).partial
	@mkdir -p $(dir $(BENCH_PACK))
	$(BIN)/adapmoe export $(MODEL) $(BENCH_PACK) --experts int4
	$(BIN)/adapmoe calibrate $(BENCH_PACK) --text tests/text/calibration.txt

$(WIDE_PACK)/calibration.json: benchmarks/widen.py | $(BENCH_PACK)/calibration.json
	rm -rf $(WIDE_PACK)
	$(BIN)/python benchmarks/widen.py $(MODEL) $(WIDE_PACK) --calibration-of $(BENCH_PACK)

$(PAIRED_NARROW)/calibration.json: $(wildcard $(MODEL)/*) | $(STAMPS)/demo
	rm -rf $(PAIRED_NARROW) $(PAIRED_NARROW).partial
	@mkdir -p $(dir $(PAIRED_NARROW))
	$(BIN)/adapmoe export $(MODEL) $(PAIRED_NARROW) --experts int4 --dense int4
	$(BIN)/adapmoe calibrate $(PAIRED_NARROW) --text tests/text/calibration.txt

$(PAIRED_PACK)/calibration.json: benchmarks/widen.py | $(PAIRED_NARROW)/calibration.json
	rm -rf $(PAIRED_PACK) $(PAIRED_PACK:.adapmoe=.gguf)
	$(BIN)/python benchmarks/widen.py $(MODEL) $(PAIRED_PACK) --dense int4 \
	  --calibration-of $(PAIRED_NARROW)

# Large enough that memory given back shows, small enough for an emulated machine: 124 MB.
$(BOOT_PACK)/manifest.json: benchmarks/widen.py $(wildcard $(MODEL)/*) | $(STAMPS)/demo
	rm -rf $(BOOT_PACK)
	@mkdir -p $(dir $(BOOT_PACK))
	$(BIN)/python benchmarks/widen.py $(MODEL) $(BOOT_PACK) --hidden-size 512 \
	  --intermediate-size 2048 --num-attention-heads 16 --num-key-value-heads 4 --head-dim 32

# Several tiles per expert.
$(STRESS_PACK)/manifest.json: $(STAMPS)/test $(wildcard $(MODEL)/*)
	rm -rf $(STRESS_PACK) $(STRESS_PACK).partial
	@mkdir -p $(dir $(STRESS_PACK))
	$(BIN)/adapmoe export $(MODEL) $(STRESS_PACK) --experts int4 --tile-width 64
