# nearside. "make" lists what there is.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Arguments: make run ARGS='-config FILE', make fuzz FUZZTIME=1m, make bench BENCH=Hit, make diff SECONDS=600
ARGS     ?=
FUZZTIME ?= 10s
BENCH    ?= .
TIMEOUT  ?= 10m
CYCLES   ?= 20
SECONDS  := 60
PKG      ?= ./...

GOLANGCI_VERSION := v2.15.0
GOLANGCI         := bin/tools/golangci-lint-$(GOLANGCI_VERSION)

CLIENTS := proxy/testdata/clients

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

.PHONY: diff
diff: deps ## random commands at Redis and through nearside, compared for SECONDS
	NEARSIDE_DIFF_SECONDS=$(SECONDS) $(GO) test -race -timeout 0 -count 1 -v -run DifferentialRandom ./proxy

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, formatting and import arrows included
	$(GOLANGCI) run

.PHONY: fmt
fmt: $(GOLANGCI) ## format everything with gofumpt
	$(GOLANGCI) fmt

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
bench: ## the Go benchmarks (BENCH is a pattern)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

.PHONY: consistency
consistency: deps ## check freshness and locks under faults (CYCLES, SEED)
	cd bench && $(GO) vet ./... && $(GO) run ./consistency -cycles $(CYCLES) $(if $(SEED),-seed $(SEED))

.PHONY: deps
deps: ## install redis-server, node, a C compiler (for -race), redis-py, the npm clients
	@.ci/deps redis-server node npm cc redis-py
	@if [ -f $(CLIENTS)/package.json ]; then $(MAKE) -s --no-print-directory $(CLIENTS)/node_modules/.installed; fi

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
