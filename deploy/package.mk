# Installation and packages: `make install`, `make dist` (a tarball) and `make deb`. Included by the Makefile.

# The program to install. Without a value it is built.
ifndef PROGRAM
PROGRAM := $(CARGO_TARGET_DIR)/release/echopilot
install dist deb: build
endif

# Packagers set DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# Line tables in `.debug`, where debuggers and backtraces find them. Empty: none.
DEBUG_FILE ?= yes
# Debian has a folder of its own for packages.
ZSH_COMPLETIONS ?= $(PREFIX)/share/zsh/site-functions
# Folder of finished packages, and one for the files of a package.
DIST ?= $(CARGO_TARGET_DIR)/dist
STAGE ?= $(CARGO_TARGET_DIR)/stage
# The time of all files in a package: that of the last commit.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

BIN := $(DESTDIR)$(PREFIX)/bin
DEBUG := $(BIN)/.debug/echopilot.debug
MAN := $(DESTDIR)$(PREFIX)/share/man/man1
DOC := $(DESTDIR)$(PREFIX)/share/doc/echopilot
BASH_COMPLETION := $(DESTDIR)$(PREFIX)/share/bash-completion/completions/echopilot
ZSH_COMPLETION := $(DESTDIR)$(ZSH_COMPLETIONS)/_echopilot
FISH_COMPLETION := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/echopilot.fish
UNIT := $(DESTDIR)$(PREFIX)/lib/systemd/system/echopilot.service
SYSUSERS := $(DESTDIR)$(PREFIX)/lib/sysusers.d/echopilot.conf
SETTINGS := $(DESTDIR)$(SYSCONFDIR)/default/echopilot
DOCUMENTS := README.md CHANGELOG.md SECURITY.md LICENSE
EXAMPLES := $(wildcard deploy/nginx*.conf deploy/Caddyfile*) deploy/credentials.conf deploy/echopilot.default

.PHONY: install uninstall dist deb cargo-deb

# The program is replaced in one step, so that a running one is not disturbed. Settings that exist are kept.
install:
	install -d $(BIN) $(MAN) $(DOC)/docs $(DOC)/examples $(dir $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION)) \
		$(dir $(UNIT) $(SYSUSERS) $(SETTINGS)) $(if $(DEBUG_FILE),$(dir $(DEBUG)))
	$(if $(DEBUG_FILE),objcopy --only-keep-debug $(PROGRAM) $(DEBUG) && chmod 644 $(DEBUG))
	objcopy --strip-all $(if $(DEBUG_FILE),--add-gnu-debuglink=$(DEBUG)) $(PROGRAM) $(BIN)/echopilot.new
	chmod 755 $(BIN)/echopilot.new
	mv $(BIN)/echopilot.new $(BIN)/echopilot
	umask 022 && $(BIN)/echopilot man $(MAN) && gzip -9nf $(MAN)/echopilot.1 $(MAN)/echopilot-*.1
	umask 022 && $(BIN)/echopilot completions bash > $(BASH_COMPLETION)
	umask 022 && $(BIN)/echopilot completions zsh > $(ZSH_COMPLETION)
	umask 022 && $(BIN)/echopilot completions fish > $(FISH_COMPLETION)
	umask 022 && sed 's|/usr/bin/echopilot|$(PREFIX)/bin/echopilot|' deploy/echopilot.service > $(UNIT)
	install -m 644 deploy/echopilot.sysusers $(SYSUSERS)
	[ -e $(SETTINGS) ] || install -m 644 deploy/echopilot.default $(SETTINGS)
	install -m 644 $(DOCUMENTS) $(DOC)
	install -m 644 docs/*.md $(DOC)/docs
	install -m 644 $(EXAMPLES) $(DOC)/examples
	umask 022 && python3 deploy/third_party.py > $(DOC)/THIRD-PARTY-LICENCES

# Data, changed settings and the user of the service are kept.
uninstall:
	rm -f $(BIN)/echopilot $(DEBUG) $(MAN)/echopilot.1.gz $(MAN)/echopilot-*.1.gz
	rm -f $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION) $(UNIT) $(SYSUSERS)
	rm -f $(addprefix $(DOC)/,$(DOCUMENTS) $(wildcard docs/*.md) THIRD-PARTY-LICENCES)
	rm -f $(addprefix $(DOC)/examples/,$(notdir $(EXAMPLES)))
	[ ! -e $(SETTINGS) ] || ! cmp -s deploy/echopilot.default $(SETTINGS) || rm $(SETTINGS)
	for folder in $(dir $(DEBUG)) $(DOC)/docs $(DOC)/examples $(DOC); do \
		[ ! -d $$folder ] || rmdir --ignore-fail-on-non-empty $$folder; done

# Tests compress less.
GZIP_LEVEL ?= -9
# The files of an installation below `usr/local`, for systems of the same architecture. Equal inputs give equal bytes.
VERSION = $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
TARBALL = echopilot-$(VERSION)-$(shell uname -m)-linux
dist:
	rm -rf $(STAGE)/tarball
	$(MAKE) --no-print-directory install PROGRAM=$(PROGRAM) DESTDIR=$(STAGE)/tarball PREFIX=/usr/local DEBUG_FILE=
	install -d $(DIST)
	tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH) \
		--transform 's|^\.|$(TARBALL)|' --directory $(STAGE)/tarball/usr/local . | gzip -n $(GZIP_LEVEL) > $(DIST)/$(TARBALL).tar.gz
	$(call write_checksums)
	@echo $(DIST)/$(TARBALL).tar.gz

# The Debian package. cargo-deb takes the program and the files from the `release` folder of its target folder.
DEB_FLAGS ?=
deb: cargo-deb
	rm -rf $(STAGE)/deb
	$(MAKE) --no-print-directory install PROGRAM=$(PROGRAM) DESTDIR=$(STAGE)/deb/release/root PREFIX=/usr DEBUG_FILE= \
		ZSH_COMPLETIONS=/usr/share/zsh/vendor-completions
	mv $(STAGE)/deb/release/root/usr/bin/echopilot $(STAGE)/deb/release/
	install -d $(DIST)
	CARGO_TARGET_DIR=$(STAGE)/deb SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
		cargo deb --quiet --locked --offline --no-build --no-strip --output $(DIST)/ $(DEB_FLAGS)
	$(call write_checksums)

write_checksums = cd $(DIST) && sha256sum -- $$(ls | grep -Ex 'echopilot.*[.](tar[.]gz|deb)') > SHA256SUMS

# In a separate target folder: other settings must not rebuild Polars.
cargo-deb:
	@command -v cargo-deb >/dev/null || CARGO_TARGET_DIR=$(HOME)/.cache/cargo-deb-target \
		cargo install --quiet --locked --version $(CARGO_DEB_VERSION) cargo-deb
CARGO_DEB_VERSION := 3.8.0
