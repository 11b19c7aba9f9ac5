# kvfs: build, demo, test, bench, lint. Each target installs what it needs on
# Debian and Ubuntu as root; elsewhere it says what is missing.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null)
BIN      := bin/kvfs
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
BENCHTIME ?= 1s
FUZZTIME  ?= 30s
TESTFLAGS ?=

.PHONY: build demo test collectors bench soak fleet dashboard lint vulncheck fuzz deps clean

build:
	$(GO) build -trimpath -ldflags "-X main.release=$(VERSION)" -o $(BIN) ./cmd/kvfs

demo: build
	$(BIN) demo

# What the tests run beside kvfs itself: Debian's packages, real ones.
deps:
	@test/deps.sh

test: deps
	$(GO) test -race -timeout 15m $(TESTFLAGS) ./...

# The forward protocol against two receivers that we have not written, each a module of its own. The first takes a minute
# to build, the second needs node and npm: so this is not in make test.
collectors:
	cd test/forward && $(GO) build -o ../../bin/collector . && npm ci --no-audit --no-fund
	KVFS_COLLECTOR=$(CURDIR)/bin/collector KVFS_FLUENT_SERVER="node $(CURDIR)/test/forward/fluent.js" \
		$(GO) test -count=1 -run '^TestRealCollectors$$' -v ./logs

# Ratios against tmpfs, ext4 and an uncached FUSE tree in the same run, then the
# same in the form that benchstat reads.
bench: build
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

# Half an hour of renewals and deaths, with what the processes use meanwhile.
SOAK ?= 30m
soak:
	KVFS_SOAK=$(SOAK) $(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./test

# Ten thousand machines on one vault, in virtual time: some 20 minutes and 6 GB.
FLEET ?= 10000
fleet:
	KVFS_FLEET=$(FLEET) $(GO) test -count=1 -v -timeout 0 -run '^TestFleetKeepsApart$$' ./sync

# Debian's Prometheus on a real kvfs: each query of the dashboard returns data.
dashboard: deps
	KVFS_DASHBOARD=1 $(GO) test -count=1 -v -run '^TestDashboardHasData$$' ./test

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt wants these changed"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# Needs the vulnerability database, vuln.go.dev or what GOVULNDB names.
vulncheck:
	$(GO) run $(GOVULNCHECK) $(if $(GOVULNDB),-db $(GOVULNDB)) ./...

# Each fuzz target for a bounded time; their corpora run in make test.
fuzz:
	@test/fuzz.sh $(FUZZTIME)

clean:
	rm -rf bin
