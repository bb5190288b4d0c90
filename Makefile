# Everything a newcomer needs: `make run` shows the whole job, `make test` checks everything. `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
MODEL ?=
PYTEST_ARGS ?=
# Tests that run at once: one more than two processors, because many of them wait. `make test WORKERS=0`: one by one.
WORKERS ?= 3
OLD_HUB := 0.36.0
OLD_HUB_VENV := var/old-hub
USER_VENV ?= $(HOME)/.local/share/qwen-daemon/venv

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := daemon monitor loader demo benchmarks docs tests
# What `make test` calls besides Python, and the Debian package that has it.
TEST_TOOLS := curl:curl tmux:tmux strace:strace openssl:openssl systemd-analyze:systemd
BENCH_TOOLS := nginx:nginx aria2c:aria2 curl:curl openssl:openssl
BENCH_ARGS ?=
SYSTEM_TOOLS := systemd-nspawn:systemd-container mmdebstrap:mmdebstrap mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs \
	mkfs.ext4:e2fsprogs zsh:zsh fish:fish setpriv:util-linux \
	nft:nftables ip:iproute2 tc:iproute2 faketime:faketime

.PHONY: help run test lint test-system test-long bench bench-quick install-user docs clean python-ok tools-test \
  tools-system tools-bench

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

run: $(VENV)/.run  ## the whole job on an embedded default; MODEL=qwen-image-edit does it on the real Hub
	@$(BIN)/python -m demo $(MODEL)

test: tools-test $(VENV)/.test lint  ## everything that needs no root, in under 10 minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not system and not long" $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test-system: tools-test tools-system $(VENV)/.test $(OLD_HUB_VENV)/.installed  ## needs root and Debian packages: a real systemd
	@[ "$$(id -u)" = 0 ] || { echo "make test-system needs root: sudo make test-system" >&2; exit 1; }
	$(BIN)/python -m pytest -m "system and not long" tests $(PYTEST_ARGS)

test-long: $(VENV)/.test  ## hours; by hand, one by one (docs/long-runs.md); writes docs/figures.toml
	$(BIN)/python -m pytest -s -m "long and not system" $(PYTEST_ARGS)

bench: tools-bench $(VENV)/.bench  ## an hour: side by side with the peers, writes docs/benchmarks.md; BENCH_ARGS="--case 2"
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: tools-bench $(VENV)/.bench  ## minutes: the same at a twentieth of the size, into var/
	$(BIN)/python -m benchmarks --rounds 1 --scale 0.05 --results var/benchmarks --document var/benchmarks/benchmarks.md \
	  $(BENCH_ARGS)

install-user: python-ok  ## the daemon, monitor and commands as a service of this user, in their own environment
	@[ -x "$(USER_VENV)/bin/python" ] || $(PYTHON) -m venv "$(USER_VENV)"
	@"$(USER_VENV)/bin/pip" --disable-pip-version-check install --quiet --upgrade ".[monitor]"
	@sh systemd/install.sh --user
	@echo "The commands are in $(USER_VENV)/bin; put it on your PATH:"
	@echo "  export PATH=\"$(USER_VENV)/bin:\$$PATH\"        (in ~/.profile to keep it)"

docs: $(VENV)/.test  ## write what is generated: docs/events.md, errors.md, reliability.md, translations, pictures
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/catalogue.py
	$(BIN)/python docs/pictures.py

clean:  ## remove what make made here
	rm -rf $(VENV) var .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first, from the pinned version, and torchvision without its dependencies: that way a CPU build of torch that is
# already here (or that PIP_FIND_LINKS names) is kept instead of gigabytes of CUDA.
$(VENV)/.run: pyproject.toml constraints.txt | python-ok
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute; the first time also downloads)"
	@$(PIP) install --quiet -c constraints.txt torch
	@$(PIP) install --quiet --no-deps -c constraints.txt torchvision
	@$(PIP) install --quiet -c constraints.txt -e ".[monitor,loader]"
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(PIP) install --quiet -c constraints.txt -e ".[monitor,loader,dev]"
	@touch $@

# huggingface_hub as many still have it, beside ours on the same cache (tests/system/test_older_hub.py).
$(OLD_HUB_VENV)/.installed: | python-ok
	@$(PYTHON) -m venv "$(OLD_HUB_VENV)"
	@"$(OLD_HUB_VENV)/bin/pip" --disable-pip-version-check install --quiet "huggingface_hub==$(OLD_HUB)"
	@touch "$@"

$(VENV)/.bench: $(VENV)/.test
	@$(PIP) install --quiet hf_transfer py-spy
	@touch $@

python-ok:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): sudo apt install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: install a newer one and run: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "python3-venv is missing: sudo apt install python3-venv" >&2; exit 1; }

tools-test:
	@$(call need,$(TEST_TOOLS))

bench bench-quick tools-bench: export PATH := $(PATH):/usr/sbin
tools-bench:
	@$(call need,$(BENCH_TOOLS))

tools-system:
	@$(call need,$(SYSTEM_TOOLS))

need = missing=""; for pair in $(1); do \
	command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair\#\#*:}"; done; \
	[ -z "$$missing" ] || { echo "missing tools: sudo apt install$$missing" >&2; exit 1; }
