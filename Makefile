# The two commands: `make run` starts the server, `make test` runs every test.
# Both install what they need on a Debian machine that has Rust, and name it where there is no apt.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/echopilot-target
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
VENV := .venv

# Installs Debian packages.
apt = { command -v apt-get >/dev/null || { echo 'Missing, and no apt to install it: $(1)' >&2; exit 1; }; \
	$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $(1); }

FUZZ_SECONDS ?= 20

.PHONY: run build client dashboard test test-rust test-browser fuzz lint bench clean

run: build
	$(CARGO_TARGET_DIR)/release/echopilot serve

build: tools dashboard
	cargo build --release --locked

# The program without line tables, which gdb and backtraces find in the file beside it. Packagers set DESTDIR.
PREFIX ?= /usr/local
BIN := $(DESTDIR)$(PREFIX)/bin
.PHONY: install uninstall
install: build
	install -d $(BIN) $(BIN)/.debug
	objcopy --only-keep-debug $(CARGO_TARGET_DIR)/release/echopilot $(BIN)/.debug/echopilot.debug
	objcopy --strip-all --add-gnu-debuglink=$(BIN)/.debug/echopilot.debug \
		$(CARGO_TARGET_DIR)/release/echopilot $(BIN)/echopilot.new
	mv $(BIN)/echopilot.new $(BIN)/echopilot
uninstall:
	rm -f $(BIN)/echopilot $(BIN)/.debug/echopilot.debug

# The browser client as the server sends it; kept beside its source, so that the server builds without Node.
client: static/node_modules/installed
	npm --prefix static run --silent build

# What the server sends as the dashboard: part of the binary, made of static/ with the charts from npm.
DASHBOARD := static/dist/index.html
dashboard: $(DASHBOARD)
$(DASHBOARD): static/node_modules/installed static/build-dashboard.mjs static/index.html static/icon.svg \
		$(wildcard static/css/*.css static/js/dashboard/*.js static/js/dashboard/*/*.js)
	npm --prefix static run --silent dashboard

test: test-rust test-browser fuzz

test-rust: tools dashboard $(VENV)/installed
	@dpkg -s libfaketime >/dev/null 2>&1 && [ -x /usr/sbin/nginx ] \
		|| $(call apt,libfaketime nginx-light)
	cargo test --release --locked

# The client and the dashboard in a real browser, against the real server.
test-browser: build static/node_modules/installed tests/browser/node_modules/installed
	@command -v chromium >/dev/null || $(call apt,chromium)
	npm --prefix static run --silent check
	npm --prefix tests/browser run --silent test

# Coverage-guided, for a bounded time: bodies of requests, compressed streams, logs after damage, and broken JSON.
fuzz: tools dashboard
	tests/fuzz/run $(FUZZ_SECONDS)

lint: tools dashboard
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	python3 tests/lint/import_cycles.py
	RUSTDOCFLAGS='-D warnings' cargo doc --release --locked --no-deps

# The numbers of docs/performance.md. Takes some minutes and 10 GB of disk.
bench: tools dashboard $(VENV)/installed
	cargo bench --locked --bench ingest
	cargo bench --locked --bench seal
	cargo build --release --locked
	$(VENV)/bin/python benches/import.py $(CARGO_TARGET_DIR)/release/echopilot

# The table of peers: 1, 10 and 100 million events. Takes a quarter of an hour and 10 GB of disk.
.PHONY: bench-peers
bench-peers: build $(VENV)/installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	$(VENV)/bin/python benches/peers.py $(CARGO_TARGET_DIR)/release/echopilot

# Questions about a year of 100 million events, export and erasure. Takes ten minutes and 10 GB of disk.
.PHONY: bench-queries
bench-queries: build $(VENV)/installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	$(VENV)/bin/python benches/queries.py $(CARGO_TARGET_DIR)/release/echopilot

# What strangers and crashes cost: memory under names without number, load beside thousands of clients that hold connections
# (twenty minutes), and a start with two million events that wait to be sealed.
.PHONY: bench-hostile bench-hold bench-recovery
bench-hostile: build
	python3 benches/hostile.py $(CARGO_TARGET_DIR)/release/echopilot
bench-hold: build
	python3 benches/hold.py $(CARGO_TARGET_DIR)/release/echopilot 1667
	python3 benches/hold.py $(CARGO_TARGET_DIR)/release/echopilot 50000
bench-recovery: build
	python3 benches/recovery.py $(CARGO_TARGET_DIR)/release/echopilot

# Whether each safeguard has a test: one-line mutations that must make one fail. Takes half an hour, and is not part of CI.
.PHONY: mutants
mutants: dashboard $(VENV)/installed
	tests/mutants

# A C and a C++ compiler: for parts of Polars, and for the tests.
.PHONY: tools
tools:
	@command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null \
		|| $(call apt,build-essential)

$(VENV)/installed: tests/requirements.txt tests/requirements-old.txt
	@python3 -m venv $(VENV) 2>/dev/null || { $(call apt,python3-venv) && python3 -m venv $(VENV); }
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	rm -rf $(VENV)/old-readers
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --target $(VENV)/old-readers -r tests/requirements-old.txt
	@touch $@

%/node_modules/installed: %/package-lock.json
	@command -v npm >/dev/null || $(call apt,nodejs npm)
	npm --prefix $* ci --silent --no-audit --no-fund
	@touch $@

clean:
	rm -rf $(VENV) static/dist static/node_modules tests/browser/node_modules
	cargo clean
