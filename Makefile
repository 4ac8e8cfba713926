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

## make test    runs every test, the end-to-end ones with a real model, real SDKs and a real ClickHouse; those of
##              the control plane on SQLite and once more on PostgreSQL
test: check-test
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace
	LIUTONG_TEST_REGISTRY=postgres $(CARGO) test -p liutong-controlplane

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

## make bench-ingest   measures what it costs to store usage: rows a second, CPU and bytes of a row
bench-ingest: check-run
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane -p liutong-bench
	$(BENCH) ingest $(ARGS)

## make bench-load   checks the load generator against wrk
bench-load: build-bench
	sh .ci/needs --install wrk
	$(BENCH) check-load $(ARGS)

SECONDS ?= 300
# Some of the fuzzers; all of them without.
FUZZERS ?=

## make fuzz    lets the fuzzers of dataplane/fuzz look for SECONDS in all; FUZZERS may name some
.PHONY: fuzz
fuzz:
	@sh .ci/needs cargo cc c++ cargo-fuzz
	.ci/fuzz $(SECONDS) $(FUZZERS)

EXCHANGES ?= 100000

## make aborts  lets clients and upstreams leave at any byte of EXCHANGES exchanges, and counts what is left
.PHONY: aborts
aborts: check-test
	$(CARGO) build --release --workspace --bins
	LIUTONG_ABORT_EXCHANGES=$(EXCHANGES) $(CARGO) test --release -p liutong-load-tests --test aborts -- --nocapture

## make sync-figures   measures revocation and sync: 100,000 keys on two data planes, 50 kills, 1,000,000 keys
.PHONY: sync-figures
sync-figures: check-test
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane --bins
	LIUTONG_SYNC_FIGURES=1 $(CARGO) test --release -p liutong-controlplane --test sync -- --nocapture \
		--test-threads 1

# What decides when who is killed: the same SEED, the same schedule.
SEED ?= 1
# How often the data plane, the control plane and ClickHouse are killed, and how many other faults there are.
KILLS ?= 50 50 20
OTHERS ?= 120
# Exchanges a second: 2600 for `make chaos`, 5000 for `make outage`, without.
RATE ?=
CHAOS = "$${CARGO_TARGET_DIR:-target}/release/liutong-chaos"

.PHONY: build-chaos chaos outage
build-chaos: check-run
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane -p liutong-load-tests

## make chaos   kills and disturbs all processes under load, and holds three ledgers against each other: what clients
##              saw, what the upstream told, what ClickHouse has; SEED=1 KILLS="50 50 20" OTHERS=120 RATE=2600 (4 min)
chaos: build-chaos
	$(CHAOS) kills --seed $(SEED) --dataplane $(word 1,$(KILLS)) --controlplane $(word 2,$(KILLS)) \
		--clickhouse $(word 3,$(KILLS)) --others $(OTHERS) $(if $(RATE),--rate $(RATE))

MINUTES ?= 10

## make outage  the control plane, then ClickHouse, away for MINUTES=10 each at RATE=5000 exchanges a second
outage: build-chaos
	$(CHAOS) away controlplane --minutes $(MINUTES) $(if $(RATE),--rate $(RATE))
	$(CHAOS) away clickhouse --minutes $(MINUTES) $(if $(RATE),--rate $(RATE))

BENCH = "$${CARGO_TARGET_DIR:-target}/release/liutong-bench"

.PHONY: build-bench bench-growth bench-handshakes bench-ingest bench-load
build-bench: check-bench
	$(CARGO) build --release -p liutong-dataplane -p liutong-controlplane -p liutong-bench
	$(CARGO) build --release -p liutong-dataplane --features prices --bin liutong-dataplane-priced

## make bench-pure          times the pure parts of the data plane with criterion; ARGS may name some
bench-pure: check-build
	$(CARGO) bench -p liutong-bench --bench pure -- $(ARGS)

## make bench-instructions  counts their instructions, and those of whole exchanges, under callgrind
bench-instructions: check-instructions
	$(CARGO) build --release -p liutong-dataplane -p liutong-bench
	$(CARGO) build --release -p liutong-dataplane --features prices --bin liutong-dataplane-priced
	$(CARGO) run --release -p liutong-bench -- instructions $(ARGS)

.PHONY: check-build check-run check-test check-bench check-instructions
check-build:
	@sh .ci/needs cargo cc

check-run:
	@sh .ci/needs cargo cc npm

check-test:
	@sh .ci/needs cargo cc npm node python3 curl
	@sh .ci/needs --install initdb

check-bench:
	@sh .ci/needs cargo cc npm
	@sh .ci/needs --install nginx haproxy

check-instructions:
	@sh .ci/needs --install cargo cc valgrind
