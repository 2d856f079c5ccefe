# SPDX-License-Identifier: Apache-2.0
# All that anyone must know; Meson and Ninja do the work underneath.
BUILD  ?= build
PREFIX ?= /usr/local
MESON   = meson
NINJA   = ninja

all: build ## build build/godwit (the default)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' \
		Makefile

deps: # the packages a build needs; quiet when they are there
	@tools/install-deps build

$(BUILD)/build.ninja: | deps
	@$(MESON) setup --prefix=$(PREFIX) $(BUILD)

build: deps $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD)

demo: build ## move a running guest three times and show what happened
	@tools/demo --godwit $(BUILD)/godwit

check: deps ## format, layers, both compilers, sanitizers, all tests
	@tools/install-deps test lab
	@tools/check --build $(BUILD)

lab: deps ## only Linux guests, in nested hosts that QEMU emulates
	@tools/install-deps lab
	@tools/check --build $(BUILD) --only lab

all-sim: deps ## all system tests on the simulated accelerator, as where there is no KVM
	@tools/install-deps test
	@tools/check --build $(BUILD) --only all-sim

sanitize: deps ## only the unit tests, under address+undefined and thread
	@tools/install-deps test
	@tools/check --build $(BUILD) --only asan,tsan

# FUZZ_SECONDS: for each target.
fuzz: deps ## feed hostile bytes to every parser for a while
	@tools/install-deps test
	@tools/fuzz --build $(BUILD)-asan --seconds $(or $(FUZZ_SECONDS),60)

bench: ## measure everything and write docs/measurements.md
	@tools/install-deps build bench
	@$(MAKE) --no-print-directory build
	@tools/measurements --build $(BUILD)

install: build ## install godwit below PREFIX (and DESTDIR)
	@$(MESON) configure --prefix=$(PREFIX) $(BUILD)
	@$(MESON) install -C $(BUILD)

format: ## lay out all C files by .clang-format
	@tools/install-deps test
	@tools/format

clean: ## remove what was built
	rm -rf $(BUILD) $(BUILD)-debug $(BUILD)-asan $(BUILD)-tsan

.PHONY: all help deps build demo check lab all-sim sanitize fuzz bench install format clean
