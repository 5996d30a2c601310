# The commands of this project; what is longer than a line is in scripts/.
.NOTPARALLEL:
.PHONY: help run test lint doc nostd bench instructions compare fuzz soak setup test-clients soak-server

# For `make run`: where and what to serve for real. For `make instructions`: take them on. For
# `make soak-server`: how long.
export INTERFACE CONFIG ACCEPT MINUTES

help: ## Tell what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

run: ## Show a disk served over raw Ethernet; INTERFACE=eth1 CONFIG=FILE serves for real
	@scripts/run

test: ## Install what tests need and run them all
	@scripts/test

test-clients: ## Try the Linux driver, iPXE and hostile wires and senders, in ten minutes
	@scripts/test-clients

soak-server: ## Load a server, restart it and cut its wire for MINUTES=10, and verify every sector
	@scripts/soak-server

lint: ## Check formatting and lints, for every set of features
	@scripts/lint

doc: ## Build the documentation
	@scripts/doc

nostd: ## Prove that the core needs no operating system (a part of `make test`)
	@cargo build --lib --no-default-features
	@scripts/freestanding

bench: ## Run the benchmarks
	@cargo bench --all-features

instructions: ## Count the instructions of a frame; ACCEPT=1 takes changed counts on
	@scripts/instructions

compare: ## Measure against vblade and the limit of the wire; scripts/compare --help
	@scripts/compare

fuzz: ## Fuzz each parser in turn until Ctrl-C; scripts/fuzz SECONDS does so once
	@scripts/fuzz

soak: ## Simulate crashes for hours; SEEDS=1000000
	@scripts/soak $(SEEDS)

setup: ## Install what is missing for all of these
	@scripts/setup --test
