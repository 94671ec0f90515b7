# What people type. Everything here works from a clean clone; `make help` tells what there is.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# Tests whose names contain this: make test ONLY=pull
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit e2e bench suites install fuzz prerequisites

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build berth, serve a real image on loopback, pull it and run Python in it
	@demo/demo

test: prerequisites lint unit e2e ## Check the style and run every test, with the real peers (podman, umoci, a registry)

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The binaries and Slurm's plugin come first: the end-to-end tests drive them, and `cargo test` alone does not build them all.
unit: ## Run the tests of the crates
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --exclude testbed --locked

e2e: ## Run the end-to-end tests (needs `make unit` or `cargo build` first); ONLY=word runs some
	$(CARGO) build --workspace --locked
	$(CARGO) test --package testbed --locked -- $(ONLY)

# As root: installs what the tests need. As an ordinary user: says what is missing; the tests that need it are skipped,
# each with its reason, or fail where CI is set.
prerequisites:
	@testbed/prerequisites

bench: ## Measure berth against its peers; prints tables and draws benches/results/*.svg
	$(CARGO) build --release --locked --package berth --package testbed --bins
	target/release/bench

suites: ## As root on Debian 12: run the published suites for OCI runtimes (docs/validation.md); ONLY=word runs some
	$(CARGO) build --locked --package berth
	testbed/suites/run --only "$(ONLY)"

fuzz: ## Fuzz the parsers of untrusted input (needs cargo-fuzz and a nightly toolchain); SECONDS_EACH=60
	fuzz/run $${SECONDS_EACH:-60}

install: ## Install the command, its man pages and completions below $(DESTDIR)$(PREFIX)
	$(CARGO) build --release --locked --package berth --package berth-spank --package berth-subid --package xtask
	target/release/xtask dist target/dist
	install -D -m 755 target/release/berth $(DESTDIR)$(PREFIX)/bin/berth
	ln -sf berth $(DESTDIR)$(PREFIX)/bin/berth-runtime
	install -D -m 755 target/release/libspank_berth.so $(DESTDIR)$(PREFIX)/lib/berth/spank_berth.so
	install -D -m 644 target/release/libsubid_berth.so $(DESTDIR)$(PREFIX)/lib/libsubid_berth.so
	for page in target/dist/man/*.1; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man1/$${page##*/}; done
	install -D -m 644 target/dist/completions/berth.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth
	install -D -m 644 target/dist/completions/_berth $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_berth
	install -D -m 644 target/dist/completions/berth.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/berth.fish
