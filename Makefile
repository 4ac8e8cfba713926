# The commands of the README. `make help` lists them.

CARGO ?= cargo
# Extra arguments for `make run`, for example: make run ARGS="--upstream http://127.0.0.1:8000/v1 --upstream-model m"
ARGS ?=

.PHONY: help run build test lint bench bench-pure bench-instructions

help:
	@sed -n 's/^## //p' Makefile

## make run     builds what is needed and starts all of Liutong on this machine; ARGS are quickstart's flags
run: check-run
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane
	@exec "$${CARGO_TARGET_DIR:-target}/release/liutong" quickstart $(ARGS)

## make build   builds everything, optimised
build: check-build
	$(CARGO) build --release --workspace

## make test    runs every test, the end-to-end ones with a real model, real SDKs and a real ClickHouse
test: check-test
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace

## make lint    formatting and clippy, warnings denied
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

## make bench   measures Liutong beside nginx and HAProxy; bench/README.md says how to read it; ARGS are the bench's
bench: build-bench
	$(BENCH) $(ARGS)

## make bench-growth   measures how cost grows with connections, bodies, keys, streams and workers
bench-growth: build-bench
	$(BENCH) growth $(ARGS)

## make bench-handshakes   measures what TLS handshakes cost
bench-handshakes: build-bench
	$(BENCH) handshakes $(ARGS)

## make bench-load   checks the load generator against wrk
bench-load: build-bench
	sh .ci/needs --install wrk
	$(BENCH) check-load $(ARGS)

BENCH = "$${CARGO_TARGET_DIR:-target}/release/liutong-bench"

.PHONY: build-bench bench-growth bench-handshakes bench-load
build-bench: check-bench
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane -p liutong-bench
	$(CARGO) build --release -p liutong-dataplane --features prices --bin liutong-dataplane-priced

## make bench-pure          times the pure parts of the data plane with criterion; ARGS may name some
bench-pure: check-build
	$(CARGO) bench -p liutong-bench --bench pure -- $(ARGS)

## make bench-instructions  counts their instructions, and those of whole exchanges, under callgrind
bench-instructions: check-instructions
	$(CARGO) build --release -p liutong-dataplane -p liutong-bench
	$(CARGO) run --release -p liutong-bench -- instructions $(ARGS)

.PHONY: check-build check-run check-test check-bench check-instructions
check-build:
	@sh .ci/needs cargo cc

check-run:
	@sh .ci/needs cargo cc npm

check-test:
	@sh .ci/needs cargo cc npm node python3

check-bench:
	@sh .ci/needs cargo cc npm
	@sh .ci/needs --install nginx haproxy

check-instructions:
	@sh .ci/needs --install cargo cc valgrind
