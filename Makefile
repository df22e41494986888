# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` do everything from a bare checkout. Stamps inside .venv make a
# second run quick.
PYTHON ?= python3
CXX ?= g++
SANITIZE ?= address,undefined
export CXX

BIN := .venv/bin
PIP := $(BIN)/python -m pip
STAMPS := .venv/stamps
MODEL := tests/models/tiny-mixtral
PACK := build/demo/tiny-mixtral.adapmoe
PROMPT := The function returns

BUILD_FILES := pyproject.toml CMakeLists.txt runtime/CMakeLists.txt
CPP_FILES := $(shell find runtime tests/cpp -name '*.cc' -o -name '*.h')
PACKAGE_FILES := $(BUILD_FILES) $(CPP_FILES) \
  $(shell find python export/adapmoe_export -name '*.py' -o -name '*.pyi' -o -name 'py.typed')

.PHONY: demo test venv lint types pytest sanitize clean
.DELETE_ON_ERROR:

demo: $(PACK)/manifest.json
	$(BIN)/adapmoe run $(PACK) -p "$(PROMPT)" -n 64 --temperature 0 --experts-resident 50%

# The full pytest run comes last: its summary is the closing line.
test:
	$(MAKE) lint
	$(MAKE) types
	$(MAKE) sanitize
	$(MAKE) pytest

venv: $(STAMPS)/test

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	$(BIN)/python -m pytest -q tests/lint
	$(MAKE) $(STAMPS)/tidy

types: $(STAMPS)/test
	$(BIN)/mypy

pytest: $(STAMPS)/test
	$(BIN)/python -m pytest

sanitize: $(STAMPS)/sanitize-$(SANITIZE)
	tests/support/sanitized.sh $(SANITIZE) build/sanitize-$(SANITIZE)/site $(BIN)/python -m pytest \
	  --ignore=tests/lint -m "not torch and not memory and not slow"

clean:
	rm -rf .venv build

# --- environments -------------------------------------------------------------------------------
$(STAMPS)/venv: tests/support/check_system.sh
	tests/support/check_system.sh $(PYTHON)
	$(PYTHON) -m venv .venv
	$(PIP) install -q --upgrade "pip>=25.1"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build-tools: pyproject.toml $(STAMPS)/venv
	$(PIP) install -q --group build
	@touch $@

$(STAMPS)/dev-tools: pyproject.toml $(STAMPS)/build-tools
	$(PIP) install -q --group dev
	@touch $@

# What a user gets, plus the exporter: no torch, no transformers.
$(STAMPS)/demo: $(PACKAGE_FILES) $(STAMPS)/build-tools
	rm -f $(STAMPS)/test
	$(PIP) install -q --no-build-isolation ".[export]" -C build-dir=build/release
	@touch $@

# The demo's installation plus tests and the module adapmoe._testing: it serves the demo too.
$(STAMPS)/test: $(PACKAGE_FILES) $(STAMPS)/dev-tools
	$(PIP) install -q --no-build-isolation ".[test]" -C build-dir=build/test \
	  -C cmake.define.ADAPMOE_TESTING=ON -C cmake.define.ADAPMOE_WERROR=ON
	@touch $(STAMPS)/demo $@

$(STAMPS)/sanitize-$(SANITIZE): $(STAMPS)/test
	rm -rf build/sanitize-$(SANITIZE)/site
	$(PIP) install -q --no-build-isolation --no-deps --target build/sanitize-$(SANITIZE)/site . \
	  -C build-dir=build/sanitize-$(SANITIZE)/cmake -C cmake.build-type=RelWithDebInfo \
	  -C cmake.define.ADAPMOE_TESTING=ON -C cmake.define.ADAPMOE_SANITIZE=$(SANITIZE)
	@touch $@

$(STAMPS)/tidy: .clang-tidy $(CPP_FILES) $(STAMPS)/test
	$(BIN)/python $(BIN)/run-clang-tidy.py -clang-tidy-binary $(BIN)/clang-tidy -p build/test -j 2 \
	  -quiet -hide-progress '^$(CURDIR)/runtime/'
	@touch $@

$(PACK)/manifest.json: $(STAMPS)/demo $(wildcard $(MODEL)/*)
	rm -rf $(PACK) $(PACK).partial
	@mkdir -p $(dir $(PACK))
	$(BIN)/adapmoe export $(MODEL) $(PACK) --experts int4
