# Every command a person or a machine runs; what they do is in the scripts they call.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test check

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
