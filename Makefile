# Every command a person or a machine runs; what they do is in the scripts they call.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test check soak dist emulated clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## two real clusters, peered, a Deployment over both, told step by step; stays up (root)
	@tests/lab/demo

demo-down: ## ends the demo and leaves nothing behind
	@tests/lab/demo down

test: ## everything: check, then the stories on real clusters (root)
	@tests/lab/test

check: ## the quick one: format, lints, unit and world tests, docs, licences
	@tests/check

soak: ## an hour of random faults on real clusters, then 100,000 seeds in the in-memory world (root)
	@tests/lab/soak

dist: ## the release binaries as dist/<target>/sluice: static, stripped, x86_64, aarch64, armv7 and armv6
	@cross/dist

emulated: ## the tunnel's tests on aarch64 and armv7, under emulation
	@cross/dist --test

clean: ## removes what was built here; the lab's cache stays
	@rm -rf dist
	@cargo clean
