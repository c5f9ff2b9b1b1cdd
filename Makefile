# `make run` starts the server, `make test` runs all tests, `make lint` checks formats and rules.
# They need Rust, install everything else with apt, and name the missing packages on a system without apt.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/echopilot-target
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
VENV := .venv

# Some tools are in folders that are not in the path of every user.
export PATH := $(PATH):/usr/sbin:/sbin

# Installs Debian packages.
apt = { command -v apt-get >/dev/null || { echo 'Missing, and no apt to install it: $(1)' >&2; exit 1; }; \
	$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $(1); }

# Installs the Debian package of a tool, unless the tool exists.
need = command -v $(1) >/dev/null || $(call apt,$(2))

FUZZ_SECONDS ?= 20

# The tests run our code with checks of arithmetic and of assertions; dependencies are the same with and without.
CHECKED := --config tests/checked.toml

.PHONY: run build client dashboard test test-rust test-browser fuzz lint lint-scripts bench clean

run: build
	$(CARGO_TARGET_DIR)/release/echopilot serve

build: tools dashboard
	cargo build --release --locked

include deploy/package.mk

# The minified files of the client, which the server sends. They are in the repository, so that it builds without Node.
client: static/node_modules/installed
	npm --prefix static run --silent build

# The npm package of the client, in static/package: `npm publish static/package` publishes it.
.PHONY: client-package
client-package: client
	npm --prefix static run --silent package

# The files of the dashboard, which are part of the binary. Made from static/, with the charts from npm.
DASHBOARD := static/dist/index.html
dashboard: $(DASHBOARD)
$(DASHBOARD): static/node_modules/installed static/build-dashboard.mjs static/index.html static/docs.html static/icon.svg \
		$(wildcard static/css/*.css static/js/docs.js static/js/dashboard/*.js static/js/dashboard/*/*.js)
	npm --prefix static run --silent dashboard

test: test-rust test-browser fuzz

# Shells that read the completions, proxies and their client, and what lists system calls. Most tests wait for a server or
# a disk: there are two threads for each core.
PACKAGE_TEST_TOOLS := caddy curl fish openssl strace zsh
test-rust: tools dashboard cargo-deb $(VENV)/installed
	@dpkg -s libfaketime >/dev/null 2>&1 || $(call apt,libfaketime)
	@$(call need,nginx,nginx-light)
	@$(call need,promtool,prometheus)
	@$(call need,mkfs.ext4,e2fsprogs)
	@$(call need,ps,procps)
	@$(call need,systemd-nspawn,systemd-container)
	@missing=; for tool in $(PACKAGE_TEST_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		[ -z "$$missing" ] || $(call apt,$$missing)
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test --release --locked $(CHECKED)

# Tests of the client and the dashboard in a real browser, against the program that cargo builds for the Rust tests:
# `cargo build` would build it again, because development dependencies change features of others.
test-browser: tools dashboard static/node_modules/installed tests/browser/node_modules/installed $(VENV)/installed
	@$(call need,chromium,chromium)
	@$(call need,firefox-esr,firefox-esr)
	cargo test --release --locked $(CHECKED) --test it --no-run
	npm --prefix static run --silent check
	npm --prefix tests/browser run --silent test

# Coverage-guided fuzzing for a bounded time: request bodies, also of other clients, compressed streams, damaged logs and
# broken JSON.
fuzz: tools dashboard
	tests/fuzz/run $(FUZZ_SECONDS)

lint: tools dashboard lint-scripts
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --release --locked --no-deps

# Everything but Rust: JavaScript, TypeScript and CSS, Python, shell; and rules of our own, with their tests.
SCRIPTS = $(shell git grep -lIE '^#!.*[ /](ba)?sh$$')
lint-scripts: $(VENV)/lint-installed tests/lint/node_modules/installed
	tests/lint/node_modules/.bin/biome check --error-on-warnings static tests/browser benches
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/shfmt -d $(SCRIPTS)
	$(VENV)/bin/shellcheck $(SCRIPTS)
	tests/lint/node_modules/.bin/dockerfile-utils lint deploy/Containerfile
	$(VENV)/bin/python -m unittest discover --quiet -s tests/lint
	$(VENV)/bin/python tests/lint/import_cycles.py
	$(VENV)/bin/python tests/lint/words.py
	$(VENV)/bin/python tests/mutants --check

# The numbers of docs/performance.md. Takes some minutes and 10 GB of disk.
bench: tools dashboard $(VENV)/installed
	cargo bench --locked --bench ingest
	cargo bench --locked --bench seal
	cargo build --release --locked
	$(VENV)/bin/python benches/import.py $(CARGO_TARGET_DIR)/release/echopilot

# Comparison with other engines: 10 and 100 million events. Takes hours and 15 GB of disk.
.PHONY: bench-peers
bench-peers: build $(VENV)/installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	$(VENV)/bin/python benches/peers.py $(CARGO_TARGET_DIR)/release/echopilot

# Queries of a year of 100 million events, export and erasure. Takes ten minutes and 10 GB of disk.
.PHONY: bench-queries
bench-queries: build $(VENV)/installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	$(VENV)/bin/python benches/queries.py $(CARGO_TARGET_DIR)/release/echopilot

# Hostile clients and crashes: memory under millions of distinct names; ingest next to thousands of clients that hold
# connections (twenty minutes); and a start with two million events that wait to be sealed.
.PHONY: bench-hostile bench-hold bench-recovery
bench-hostile: build
	python3 benches/hostile.py $(CARGO_TARGET_DIR)/release/echopilot
bench-hold: build
	python3 benches/hold.py $(CARGO_TARGET_DIR)/release/echopilot 1667
	python3 benches/hold.py $(CARGO_TARGET_DIR)/release/echopilot 50000
bench-recovery: build
	python3 benches/recovery.py $(CARGO_TARGET_DIR)/release/echopilot

# Usage of a year with a million users who have two ids each, before and after the nightly compaction.
.PHONY: bench-links
bench-links: build
	python3 benches/links.py $(CARGO_TARGET_DIR)/release/echopilot

# Traffic with everything on, for an hour; every number is compared with a model. `make test` runs its short form.
SOAK_SECONDS ?= 3600
.PHONY: soak
soak: build $(VENV)/installed
	$(VENV)/bin/python benches/soak.py $(CARGO_TARGET_DIR)/release/echopilot $(SOAK_SECONDS)

# Three ingest servers and two query nodes on one table, over an S3 server that fails. Part of `make test`.
.PHONY: test-cluster
test-cluster: tools dashboard $(VENV)/installed
	@dpkg -s libfaketime >/dev/null 2>&1 || $(call apt,libfaketime)
	cargo test --release --locked $(CHECKED) --test it -- cluster::

# Every metric on an Apache Spark cluster of this machine: a master, two workers, Spark Connect. Needs 3 GB of memory and,
# once, 500 MB of disk for pyspark. Not part of `make test`.
SPARK_VENV := $(CARGO_TARGET_DIR)/pyspark
.PHONY: test-distributed
test-distributed: build $(SPARK_VENV)/installed
	@$(call need,java,openjdk-17-jre-headless)
	$(SPARK_VENV)/bin/python tests/distributed/run.py $(CARGO_TARGET_DIR)/release/echopilot

# Every metric on 10 million events here and on Spark with one and two workers. Takes twenty minutes and 2 GB of disk.
.PHONY: bench-distributed
bench-distributed: build $(SPARK_VENV)/installed
	@$(call need,java,openjdk-17-jre-headless)
	$(SPARK_VENV)/bin/python benches/distributed.py $(CARGO_TARGET_DIR)/release/echopilot

# Ingest of a server that publishes tables and of one that does not, in turns. Takes four minutes.
.PHONY: bench-publish
bench-publish: build
	python3 benches/publish.py $(CARGO_TARGET_DIR)/release/echopilot

$(SPARK_VENV)/installed: tests/distributed/requirements.txt
	python3 -m venv $(SPARK_VENV)
	$(SPARK_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# Checks that each safeguard has a test: every one-line mutation must make one fail. Takes half an hour; not part of CI.
.PHONY: mutants
mutants: dashboard $(VENV)/installed
	tests/mutants

# A C and a C++ compiler, for parts of Polars and for the tests.
.PHONY: tools
tools:
	@command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null \
		|| $(call apt,build-essential)

$(VENV)/bin/python:
	@python3 -m venv $(VENV) 2>/dev/null || { $(call apt,python3-venv) && python3 -m venv $(VENV); }

$(VENV)/installed: tests/requirements.txt tests/requirements-old.txt | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	rm -rf $(VENV)/old-readers
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --target $(VENV)/old-readers -r tests/requirements-old.txt
	@touch $@

$(VENV)/lint-installed: tests/lint/requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

%/node_modules/installed: %/package-lock.json
	@$(call need,npm,nodejs npm)
	npm --prefix $* ci --silent --no-audit --no-fund
	@touch $@

clean:
	rm -rf $(VENV) static/dist static/package static/node_modules tests/browser/node_modules tests/lint/node_modules
	cargo clean
