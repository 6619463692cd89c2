# nearside. "make" lists what there is.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Arguments: make run ARGS='-config FILE', make fuzz FUZZTIME=1m, make microbench BENCH=Hit, make bench ARGS=-all, make diff SECONDS=600
ARGS     ?=
FUZZTIME ?= 10s
BENCH    ?= .
TIMEOUT  ?= 20m
CYCLES   ?= 23
SOAK_CYCLES ?= 1000
SOAK_GROUPS ?= 3
SECONDS  := 60
PKG      ?= ./...

GOLANGCI_VERSION := v2.15.0
GOLANGCI         := bin/tools/golangci-lint-$(GOLANGCI_VERSION)

CLIENTS := proxy/testdata/clients

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/nearside
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/nearside ./cmd/nearside

.PHONY: run
run: build ## build and start it on an embedded Redis (or with ARGS)
	@exec bin/nearside $(ARGS)

.PHONY: test
test: deps ## all tests, with -race, against real redis-server processes
	$(GO) vet $(PKG)
	$(GO) test -race -timeout $(TIMEOUT) $(PKG)
ifeq ($(shell uname -s),Linux) # bench is for nothing else
	@for program in $(PEERS); do command -v $$program >/dev/null || echo "no $$program: TestSmoke of bench/compare is skipped; make bench-deps installs it"; done
	cd bench && $(GO) vet ./... && $(GO) test -count 1 -p 1 -timeout 5m -skip '$(BROKEN)' ./...
endif

.PHONY: diff
diff: deps ## random commands at Redis and through nearside, compared for SECONDS
	NEARSIDE_DIFF_SECONDS=$(SECONDS) $(GO) test -race -timeout 0 -count 1 -v -run DifferentialRandom ./proxy

.PHONY: hostile
hostile: deps ## one client attacks, its neighbours check every reply, for SECONDS (NEARSIDE_TEST_SERVER names another server)
	NEARSIDE_HOSTILE_SECONDS=$(SECONDS) $(GO) test -race -timeout 0 -count 1 -v -run Neighbours ./proxy

.PHONY: sequences
sequences: deps ## random sequences of stateful commands on five servers for SECONDS, after which nothing must be left
	NEARSIDE_SEQUENCES_SECONDS=$(SECONDS) $(GO) test -race -timeout 0 -count 1 -v -run '^TestSequences$$' ./proxy

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, formatting and import arrows included
	$(GOLANGCI) run
	cd bench && GOOS=linux ../$(GOLANGCI) run
	cd configs/kubernetes && ../../$(GOLANGCI) run

.PHONY: fmt
fmt: $(GOLANGCI) ## format everything with gofumpt
	$(GOLANGCI) fmt
	cd bench && ../$(GOLANGCI) fmt
	cd configs/kubernetes && ../../$(GOLANGCI) fmt

# Only one target can be fuzzed at a time.
.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@$(GO) list -f '{{$$d := .Dir}}{{range .TestGoFiles}}{{$$d}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$$d}}/{{.}} {{end}}' $(PKG) | tr ' ' '\n' \
	| while read -r file; do \
		[ -n "$$file" ] || continue; \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing\.F).*/\1/p' "$$file"); do \
			echo "== $$target in $$(dirname "$$file")"; \
			( cd "$$(dirname "$$file")" && $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) . </dev/null ); \
		done; \
	done

.PHONY: bench
bench: bench-deps ## nearside against Redis, nutcracker, haproxy: 15 minutes, into bench/results (ARGS: -all and others)
	cd bench && $(GO) run ./compare $(ARGS)

.PHONY: bench-check
bench-check: bench-deps ## CPU per request, compared with what bench/results has recorded
	cd bench && $(GO) run ./compare -check $(ARGS)

# What bench/compare needs besides redis-server. CI has it installed for its tests.
PEERS := redis-benchmark nutcracker haproxy

.PHONY: bench-deps
bench-deps: # not listed: the targets above need it
	@.ci/deps redis-server $(PEERS)

.PHONY: microbench
microbench: ## the Go benchmarks (BENCH is a pattern)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

# Tests that build broken nearsides and want them found out.
BROKEN := ^(TestCatches|TestMutants)$$

.PHONY: consistency
consistency: deps ## check freshness and locks under faults (CYCLES, SEED), and that broken nearsides are found out
	cd bench && $(GO) vet ./consistency && $(GO) run ./consistency -cycles $(CYCLES) $(if $(SEED),-seed $(SEED))
	cd bench && $(GO) test -count 1 -timeout $(TIMEOUT) -v -run '$(BROKEN)' ./consistency | grep -E '^ *(---|FAIL|PASS|ok)|found after|_test.go'

.PHONY: soak
soak: deps ## many faults in all modes (SOAK_CYCLES, SEED, SOAK_GROUPS side by side)
	cd bench && $(GO) run ./consistency -soak $(SOAK_CYCLES) -groups $(SOAK_GROUPS) $(if $(SEED),-seed $(SEED))

.PHONY: scale
scale: deps ## what the promises hold at: latencies, 20,000 writes a second, a million TTLs, two million operations for porcupine
	cd bench && $(GO) run ./consistency -scale all

# What checks the files below configs.
CHECKERS := promtool systemd-analyze

.PHONY: packages
packages: ## check the systemd unit, the Dockerfile, the Kubernetes manifests, the alerts and the dashboard
	@.ci/deps $(CHECKERS)
	NEARSIDE_CHECKERS=required $(GO) test -count 1 -timeout $(TIMEOUT) ./configs
	cd configs/kubernetes && $(GO) vet . && $(GO) test -count 1 .

# Where "make install" puts things; DESTDIR goes before all of them.
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR    ?=
BINARY     ?= bin/nearside

# It builds nothing: root may have no Go, and should leave no files in the source.
.PHONY: install
install: ## install what make build has built, on Linux with its service (PREFIX, DESTDIR)
	@[ -x "$(BINARY)" ] || { echo "there is no $(BINARY): run make build first" >&2; exit 1; }
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/nearside"
	install -d "$(DESTDIR)$(SYSCONFDIR)/nearside"
	[ -e "$(DESTDIR)$(SYSCONFDIR)/nearside/nearside.yaml" ] || install -m 644 configs/nearside.yaml "$(DESTDIR)$(SYSCONFDIR)/nearside/nearside.yaml"
ifeq ($(shell uname -s),Linux)
	install -d "$(DESTDIR)$(PREFIX)/lib/systemd/system" "$(DESTDIR)$(PREFIX)/lib/sysusers.d"
	sed -e 's|/usr/local/bin/|$(PREFIX)/bin/|' -e 's|/etc/nearside/|$(SYSCONFDIR)/nearside/|' configs/systemd/nearside.service > "$(DESTDIR)$(PREFIX)/lib/systemd/system/nearside.service"
	chmod 644 "$(DESTDIR)$(PREFIX)/lib/systemd/system/nearside.service"
	install -m 644 configs/systemd/nearside.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/nearside.conf"
endif

PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
DIST      ?= bin/dist

# The same source, version and Go give the same bytes, wherever and whenever:
# no paths, no build id, nothing from git but VERSION, no flags of one's own.
.PHONY: dist
dist: ## static binaries for Linux and macOS with their checksums, in bin/dist (VERSION)
	mkdir -p "$(DIST)"
	rm -f "$(DIST)"/nearside-* "$(DIST)"/SHA256SUMS
	for platform in $(PLATFORMS); do \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 \
		$(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)' \
			-o "$(DIST)/nearside-$(VERSION)-$${platform/\//-}" ./cmd/nearside; \
	done
	cd "$(DIST)" && if command -v sha256sum >/dev/null; then sha256sum nearside-*; else shasum -a 256 nearside-*; fi > SHA256SUMS

.PHONY: deps
deps: ## install redis-server, node, a C compiler (for -race), redis-py, the npm clients
	@.ci/deps redis-server node npm cc redis-py
	@[ -z "$${CI:-}" ] || .ci/deps $(PEERS)
	@if [ -f $(CLIENTS)/package.json ]; then $(MAKE) -s --no-print-directory $(CLIENTS)/node_modules/.installed; fi

# Where the tests look for servers by name; NEARSIDE_SERVERS names another folder.
.PHONY: servers
servers: ## unpack Redis 6.0 and 8.0, Valkey 8.1 and 9.1 for the tests into a cache folder (95 MB; installs nothing)
	@.ci/servers

$(CLIENTS)/node_modules/.installed: $(wildcard $(CLIENTS)/package.json $(CLIENTS)/package-lock.json)
	cd $(CLIENTS) && if [ -f package-lock.json ]; then npm ci --no-audit --no-fund; else npm install --no-audit --no-fund; fi
	touch $@

$(GOLANGCI):
	GOBIN="$(CURDIR)/bin/tools" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv bin/tools/golangci-lint $@

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf bin $(CLIENTS)/node_modules
	$(GO) clean -testcache
