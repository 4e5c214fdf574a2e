# The commands of this project. `make demo` and `make test` are all a new machine needs.

CARGO ?= cargo
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
CLUSTER := tests/cluster/cluster

.PHONY: build demo test test-unit soak lint generate bench cluster cluster-down deps

## build: target/release/postern, one static file
build:
	$(CARGO) build --release --bin postern
	mkdir -p target/release
	cp target/$(TARGET)/release/postern target/release/postern

## demo: a standalone gateway and a sink on loopback; sends sample mail and shows what happened
demo: build
	rustc --edition 2024 -O -o target/release/postern-demo examples/demo.rs
	target/release/postern-demo target/release/postern

## deps: installs what the tests need (Debian packages) and builds the cluster's binaries, once
deps:
	$(CLUSTER) build

## test: everything, on a real cluster too; POSTERN_TEST_KUBECONFIG uses one of yours instead
test: deps
	$(CARGO) build --bin postern
	$(CLUSTER) up >/dev/null
	$(CARGO) test --no-fail-fast --lib --test it; status=$$?; $(CLUSTER) down 2>/dev/null; exit $$status

## test-unit: the fast ones, without root and without a cluster
test-unit:
	$(CARGO) test --lib

## soak: what `make test` does a few times, many times: 100 kills, 4,000 simulated crashes, power cuts, large mail,
##       10,000 simulated histories of the control plane, the operator away for 10 minutes, the API server for 5
soak: deps
	POSTERN_POWER_CUTS=1000 $(CARGO) test --lib -- --nocapture spool::tests::crash
	POSTERN_KILLS=100 POSTERN_POWER_CUTS=10 POSTERN_LARGE_SESSIONS=200 POSTERN_LARGE_MIB=50 \
	  $(CARGO) test --test it -- --nocapture --test-threads=1 r158
	POSTERN_HISTORIES=10000 $(CARGO) test --test it -- --nocapture sim::
	$(CLUSTER) up >/dev/null
	POSTERN_SOAK=1 $(CARGO) test --test it -- --nocapture --test-threads=1 faults::e18 faults::r157

## lint: format, clippy, generated files
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

## generate: everything that is generated and committed
generate:
	mkdir -p crds
	UPDATE=1 $(CARGO) test --lib -- api::tests policy::merge::tests
	deploy/render

## cluster: the real test cluster; prints the path of its KUBECONFIG last
cluster:
	@$(CLUSTER) build >&2
	@$(CLUSTER) up

cluster-down:
	@$(CLUSTER) down

## bench: ratios against peers in the same run
bench:
	$(CARGO) bench
