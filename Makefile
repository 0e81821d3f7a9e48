# SPDX-License-Identifier: Apache-2.0
# Every target that runs something readies the checkout first (tools/setup.sh), which is quick when it is ready.

MAKEFLAGS += --no-print-directory
python := .venv/bin/python
simulations ?= 10000
workers ?= 2
profile ?= cloud

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench bench-quarantine sim image image-report image-reproduce vm test-vm docs proto lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Install the missing Debian packages and make .venv
	@tools/setup.sh

demo: setup ## Watch facts cross between two zones on software TPMs while links are cut and processes killed (a minute)
	@.venv/bin/bsfg demo

test: setup ## Run the linters, the service tests and the unit tests, two files at a time (workers=N; 0: one by one)
	@$(python) -m pytest --numprocesses $(workers) --dist loadfile --no-loadscope-reorder

lint: setup ## Run the linters alone
	@$(python) -m pytest tests/test_linters.py tests/unit/test_repository.py

bench: setup ## Measure the product beside its alternatives, and what keys in a TPM cost
	@$(python) -m tests.bench

bench-quarantine: setup ## Tamper with a box of network namespaces, and time the last frame that leaves it (half an hour; as root)
	@$(python) -m tests.bench.quarantine $(options)
	@$(python) -m tests.bench.quarantine.calm

sim: setup ## Run the whole simulation matrix (simulations=N for another number of runs)
	@$(python) -m tests.sim --runs $(simulations)

image: setup ## Build the image and the files of a release (profile=metal for boxes, profile=test for tests; minutes)
	@tools/image/setup.sh
	@$(python) -m tools.image $(if $(filter test,$(profile)),build,release) --profile $(profile) $(options)

image-report: setup ## Measure the images that were built, in files and in virtual machines; writes docs/image-report.md
	@tools/image/setup.sh
	@tools/vm/setup.sh
	@$(python) -m tools.image report $(options)

image-reproduce: setup ## Build the image twice from scratch and compare every byte
	@tools/image/setup.sh
	@$(python) -m tools.image reproduce --profile $(profile) $(options)

vm: setup ## Boot the image in a virtual machine next to a hub, and watch facts cross (options=--keep)
	@tools/vm/setup.sh
	@$(python) -m tools.vm $(options)

test-vm: setup ## Run the image's tests in virtual machines (options='--part smoke', '--only first_boot'; hours in all)
	@tools/vm/setup.sh
	@$(python) -m tests.vm $(options)

docs: setup ## Write the reference pages anew from the code
	@$(python) tools/generate_docs.py

proto: setup ## Generate the protobuf code from its source
	@$(python) tools/generate_proto.py

lock: ## Choose and hash-lock package versions anew (needs uv; options=--upgrade takes the newest)
	@tools/lock.sh $(options)

clean: ## Remove .venv and all caches; Debian packages and pip's own cache stay
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
