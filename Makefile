# The commands of the project. Each makes .venv first, and again only when requirements.lock has changed.
#   make demo [COHORT=acc|cgd] [SERVE=no] [OUT=DIR]    make test    make check    make bench
#   make wheelhouse images [COMMIT=REV] [ENGINE=podman|docker] [WHEELHOUSE=DIR]    make test-containers
#   make experiments [COHORTS=DIR]    (every table again, measured beside expected; DIR holds the shared cohorts)

COHORT ?= acc
SERVE  ?= yes
OUT    ?= out/demo
# For make images: the engine (default: podman, else docker) and the roles (default: hub site site-network).
ENGINE ?=
ROLES  ?=
COMMIT ?=
# More words for pytest, which then measures no coverage: make test PYTEST="tests/models -k cox"
PYTEST ?=

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin

# Neither Flower nor Ray reports home, from whatever is started here.
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0

# A stamp is named after the content it stands for, so a checkout that only touches the file rebuilds nothing.
digest    = $(shell sha256sum $(1) 2>/dev/null | cut -c1-16)
INSTALLED := $(VENV)/.installed-$(call digest,requirements.lock)
LINKED    := $(VENV)/.linked-$(call digest,pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench experiments lock wheelhouse images test-containers containers-ready

help:
	@sed -n 's/^#   //p' Makefile

setup: $(LINKED)

demo: setup
	$(BIN)/archipel demo --cohort $(COHORT) --out $(OUT) $(if $(filter no,$(SERVE)),--no-serve)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not containers" $(or $(PYTEST),--cov --cov-report=term)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python experiments/bench_rounds/run.py
	$(BIN)/python experiments/bench_masked/run.py
	$(BIN)/python experiments/bench_secure_sum/run.py
	$(BIN)/python -W ignore experiments/bench_page/run.py
	$(BIN)/archipel demo --cohort cgd --no-serve --out out/bench-demo | grep -E "rounds in|First round"

# Each writes to its own out/ and is then printed beside its expected/. The cohorts are no part of this repository.
EXPERIMENTS := multi_omics published_split missing_layers fusion growth
COHORTS ?= ../shared/data

experiments: export ARCHIPEL_COHORTS := $(abspath $(COHORTS))
experiments: setup
	@test -d "$(COHORTS)" || { echo "The cohorts are missing: make experiments COHORTS=DIR"; exit 1; }
	@far=""; for name in $(EXPERIMENTS); do \
	  echo "== $$name"; \
	  $(BIN)/python experiments/$$name/run.py || exit 1; \
	  if [ $$name = multi_omics ]; then $(BIN)/python experiments/multi_omics/acc.py || exit 1; fi; \
	  if [ $$name = multi_omics ]; then $(BIN)/python experiments/multi_omics/permuted.py || exit 1; fi; \
	  $(BIN)/python experiments/compare.py experiments/$$name || far="$$far $$name"; \
	done; \
	$(BIN)/python experiments/figure/draw.py; \
	test -z "$$far" || { echo "Not what is expected:$$far"; exit 1; }

# What a release is made of: signed folders of wheels, one for each role, and the images built from them offline.
# A release names its commit (COMMIT=v1.0.0); without one the files are taken as they are now, and the list says so.
WHEELHOUSE ?= out/wheelhouse

wheelhouse: setup
	$(BIN)/python docker/wheelhouse.py build --out $(WHEELHOUSE) $(if $(COMMIT),--commit $(COMMIT))

images: wheelhouse
	ENGINE="$(ENGINE)" WHEELHOUSE="$(WHEELHOUSE)" docker/images.sh $(ROLES)

# Builds the images and runs hub and sites in containers, cut off, killed and filled up. Needs podman, as root.
test-containers: ROLES := hub site
test-containers: containers-ready images
	$(BIN)/python -m pytest -m containers $(or $(PYTEST),tests/containers)

BASE := docker.io/library/debian:bookworm-slim

containers-ready:
	@test "$$(id -u)" -eq 0 || { echo "The containers' tests need root: sudo make test-containers"; exit 1; }
	@missing=""; for program in podman podman-compose ip tc nsenter; do \
	  command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	test -z "$$missing" || { echo "Missing:$$missing. On Debian: apt install podman podman-compose netavark" \
	  "aardvark-dns iproute2 util-linux"; exit 1; }
	@podman image exists $(BASE) || { echo "The base image is missing: podman pull $(BASE)"; \
	  echo "Where nothing can be pulled, make it with debootstrap and podman import."; exit 1; }

# For maintainers: resolve every requirement in one go. No index is named in the file.
lock: setup
	bash .ci/lock

$(INSTALLED):
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing. On Debian: apt install python3 python3-venv"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11 is needed, and $(PYTHON) is $$("$(PYTHON)" --version). Name another: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "The venv module of $(PYTHON) is missing. On Debian: apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (once, about a minute)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(LINKED): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
