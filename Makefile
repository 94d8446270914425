# Lockstep: each target is one flow. `make help` lists them.
PYTHON  ?= python3
DEMO    := runs/demo/program
PROGRAM ?= $(DEMO)
TARGET  ?= sim-8x8
OUT     ?= build
BIN     := .venv/bin
PY      := $(BIN)/python
STAMP   := .venv/.lockstep-stamp
# Two processes; a file stays in one of them, in the order of tests/conftest.py.
PYTEST  := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export OMP_NUM_THREADS ?= 1
TRAIN    = $(PY) flows/train.py --model resnet_digits --model-config "{'quantize': True}" \
           --dataset digits --save demo
# Of what is simulated and deployed only the demo's program is made here, where it is not there yet.
NEEDED   = $(filter $(DEMO)/program.json,$(PROGRAM)/program.json)

.PHONY: setup demo train-8bit rtl sim deploy synth test test-quick test-all mutants \
        lint formal bench clean clean-cache help
.DEFAULT_GOAL := help

help:        ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## */\1|/p' Makefile | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo "  variables: PROGRAM=$(PROGRAM) TARGET=$(TARGET) OUT=$(OUT)"

setup: $(STAMP)  ## create .venv from the pinned versions

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## train, lower, simulate and deploy the digits network, and compare every tensor
	$(PY) flows/demo.py

train-8bit: $(STAMP)  ## train the demo's network in 8 bits
	$(TRAIN)

$(DEMO)/program.json: | $(STAMP)
	$(TRAIN)

rtl: $(STAMP)  ## write the accelerator's Verilog
	$(PY) flows/rtl.py --target $(TARGET) -o $(OUT)/rtl

sim: $(STAMP) $(NEEDED)  ## run PROGRAM on every backend and compare, op by op
	$(PY) flows/sim.py --program $(PROGRAM) --target $(TARGET)

deploy: $(STAMP) $(NEEDED)  ## write the deployment folder
	$(PY) flows/deploy.py --program $(PROGRAM) --target $(TARGET) -o $(OUT)/deploy

synth: $(STAMP)  ## place and route both ECP5 targets
	$(PY) flows/synth.py --target ecp5-85k -o $(OUT)/synth
	$(PY) flows/synth.py --target ecp5-85k-packed -o $(OUT)/synth-packed

test: $(STAMP)  ## the tests: about eight minutes with empty caches
	$(PYTEST) -m "not long" --durations=15

test-quick: $(STAMP)  ## the tests of a developer's loop: under two minutes
	$(PYTEST) -m "not slow and not long" --durations=5

test-all: $(STAMP)  ## with the long ones: large networks, every shape, fuzzing
	$(PYTEST) --durations=30

mutants: $(STAMP)  ## plant faults that the tests must catch
	$(PY) -m tests.mutants

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .

formal: $(STAMP)  ## prove the rescaler for all inputs
	$(PY) flows/formal.py

bench: $(STAMP)  ## benchmarks and their results page
	$(PY) flows/bench.py digits -o $(OUT)/bench

clean:       ## remove generated output (not .venv, not runs, not the cache outside the checkout)
	rm -rf build .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

clean-cache: $(STAMP)  ## empty the cache of compiled simulations and other long steps
	$(PY) -m sim.cache --clear
