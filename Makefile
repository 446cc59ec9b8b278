# SPDX-License-Identifier: Apache-2.0
# Run on a Debian 12 or 13; each target installs what it lacks. Only lint, unit and fuzz work without root.

python := .cache/venv/bin/python
# Bounds for one test; the lab's run under software emulation.
unit_seconds := 120
lab_seconds := 900
# Twice the processors: many of the unit tests wait for a process or a socket.
unit_processes := $(shell expr 2 \* $$(nproc))
unit_options = --numprocesses=$(unit_processes) --dist=worksteal --timeout=$(unit_seconds)
# Machines at a time: one waits while the other computes, and two processors have room for no third.
lab_machines := 2

# What an older systemd has otherwise: what it reads back of a transient unit, and how a worker takes its place.
old_systemd := tests/lab/test_units.py tests/lab/test_fork_server.py tests/lab/test_security.py

# SHELL is also make's own: "make demo SHELL=1" must not become the shell of the recipes.
shell_wanted := $(if $(filter command line,$(origin SHELL)),--shell)
override SHELL := /bin/sh

.PHONY: help setup setup-unit lint unit unit-trixie fuzz image lab test test-matrix demo bench bench-native clean

help:
	@echo "make test    everything: lint, unit tests, on Debian 12 also those of Debian 13, lab"
	@echo "make lint    ruff and mypy"
	@echo "make unit    tests that need no root and no machine"
	@echo "make unit-trixie  lint and unit tests under Debian 13's Python, in a directory with a Debian 13"
	@echo "make lab     scenarios in a virtual machine with a real kernel; ARGS= goes to pytest"
	@echo "make test-matrix  shutdown with each kind of storage by itself, on Debian 13 and 12, and units there; hours; ARGS=\"-k lvm\" is less"
	@echo "make fuzz    100,000 discovery controllers that answer anything, that change, and among strangers; ARGS=\"--count 1000\" is quicker"
	@echo "make image   only build the machine's image"
	@echo "make demo    see it work; SHELL=1 leaves a shell in the machine open"
	@echo "make bench   what it costs, beside nvme-stas, nvme connect-all and the kernel alone; ARGS=\"--rounds 1\" is quicker"
	@echo "make bench-native  the part without a machine: what each unit costs this host; also the last part of make bench"
	@echo "make setup   install what all of these need"
	@echo "make clean   delete what they made, under .cache"

setup:
	@tests/setup.sh

setup-unit:
	@tests/setup.sh unit

lint: setup-unit
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

unit: setup-unit
	$(python) -m pytest tests/unit $(unit_options) $(ARGS)

unit-trixie: setup
	LAB_SUITE=trixie $(python) -m tests.lab.other_python $(unit_options) $(ARGS)

fuzz: setup-unit
	$(python) -m tests.fuzz $(ARGS)
	$(python) -m tests.fuzz.histories $(ARGS)
	$(python) -m tests.fuzz.trust $(ARGS)

image: setup
	@$(python) -m tests.lab.image

lab: image
	$(python) -m pytest tests/lab --ignore=tests/lab/matrix --timeout=$(lab_seconds) \
		--numprocesses=$(lab_machines) --dist=worksteal --durations=25 $(ARGS)

test: lint unit unit-trixie lab

test-matrix: setup
	LAB_SUITE=trixie $(python) -m pytest tests/lab/matrix --timeout=$(lab_seconds) $(ARGS)
	LAB_SUITE=bookworm $(python) -m pytest tests/lab/matrix $(old_systemd) --timeout=$(lab_seconds) $(ARGS)

demo: setup
	$(python) -m tests.lab.demo $(shell_wanted)

bench: setup
	@$(python) -m tests.bench $(ARGS)

bench-native: setup
	@$(python) -m tests.bench.native $(ARGS)

clean:
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
