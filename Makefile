# LTSP Fleet. `make demo` and `make test` install what they need on Debian 12 (root); see README.md.

SHELL := /bin/bash
BUILD := .build
BIN   := $(BUILD)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo.version=$(VERSION)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
# What rebuilds images links the pinned C encoders (internal/encoder), statically; the agent is pure Go.
GO_BUILD_C := CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"'
AGENT    := ./client-agent/cmd/ltsp-agent
WITH_C   := ./controller/cmd/ltsp-controller ./satellite/cmd/ltsp-satellite ./ctl/cmd/ltspctl
CC_amd64 := x86_64-linux-gnu-gcc
CC_arm64 := aarch64-linux-gnu-gcc

.PHONY: all build build-all packages demo test unit race component e2e fuzz lint generate generate-check vulncheck bench bench-nbd bench-boot bench-delta bench-transfer man clean

all: build

# The four static binaries for this machine, in .build/bin.
build:
	@mkdir -p $(BIN)
	$(GO_BUILD) -o $(BIN)/ $(AGENT)
	$(GO_BUILD_C) -o $(BIN)/ $(WITH_C)

# The same for amd64 and arm64, in .build/linux-ARCH; needs the cross compilers.
build-all: build-amd64 build-arm64
build-%:
	@mkdir -p $(BUILD)/linux-$*
	GOARCH=$* $(GO_BUILD) -o $(BUILD)/linux-$*/ $(AGENT)
	GOARCH=$* CC=$(CC_$*) $(GO_BUILD_C) -o $(BUILD)/linux-$*/ $(WITH_C)

# Debian packages that the demo and the tests use; does nothing when they are there.
packages:
	@.ci/packages

# A VM netboots a real image through controller and satellite. KEEP=1 leaves it running.
demo: packages build
	go build -o $(BIN)/demo ./integration/cmd/demo
	$(BIN)/demo -bin $(BIN) -cache $(BUILD)/cache $(if $(KEEP),-keep)

# All tests: unit and component (daemons in namespaces, other people's clients; the tag adds to the unit tests), and end to end (VMs).
test: packages build component e2e

unit:
	go test ./...

race:
	go test -race ./...

component: build
	LTSP_BIN=$(abspath $(BIN)) LTSP_CACHE=$(abspath $(BUILD)/cache) go test -tags component -p 1 -timeout 20m ./...

e2e: build
	LTSP_BIN=$(abspath $(BIN)) LTSP_CACHE=$(abspath $(BUILD)/cache) go test -tags e2e -count=1 -timeout 60m -v ./integration

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 10s
fuzz:
	.ci/fuzz $(FUZZTIME)

lint: generate-check
	cd .tools && go tool buf lint ..
	go mod tidy -diff
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./... && go vet -tags component ./... && go vet -tags e2e ./...
	cd .tools/lint && go build -o ../../$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(BIN)/golangci-lint run ./...

vulncheck:
	cd .tools/lint && go build -o ../../$(BIN)/govulncheck golang.org/x/vuln/cmd/govulncheck
	$(BIN)/govulncheck ./...

# Generated code from proto/, beside the sources.
generate:
	@mkdir -p $(BIN)
	cd .tools && go build -o ../$(BIN)/ github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH=$(abspath $(BIN)):$$PATH buf generate --template proto/buf.gen.yaml

# Fails when the committed code is not what the sources generate.
generate-check: generate
	git diff --exit-code -- proto

bench:
	go test -run '^$$' -bench . -benchtime 2s ./internal/... ./satellite/... ./controller/...

# Deltas against rsync, casync, zstd --patch-from and xdelta3 in one run, over a corpus of real images that is built first (VARIANT=small:
# minutes; VARIANT=desktop: hours, 12 GB). STEPS and TOOLS as in "bench-delta -h".
VARIANT ?= small
bench-delta: packages build
	go build -o $(BIN)/bench-delta ./integration/cmd/bench-delta
	$(BIN)/bench-delta -variant $(VARIANT) -cache $(BUILD)/cache/corpus -ltspctl $(BIN)/ltspctl $(if $(STEPS),-steps $(STEPS)) $(if $(TOOLS),-tools $(TOOLS))

# Bulk bytes over mutual TLS: raw gRPC frames against protobuf messages, HTTPS ranges of Go and of nginx.
bench-transfer: packages
	go test -tags component -run '^$$' -bench . -benchtime 1x -v ./internal/rawcodec

# NBD against nbdkit in one run.
bench-nbd: packages
	go test -tags component -run '^$$' -bench . -v ./satellite/internal/nbd

# PXE to healthy, bytes on the wire, initrd sizes, memory of the daemons.
bench-boot: packages build
	go build -o $(BIN)/demo ./integration/cmd/demo
	$(BIN)/demo -bin $(BIN) -cache $(BUILD)/cache -bench

# Man pages of all commands, in .build/man.
man: build
	mkdir -p $(BUILD)/man
	for b in ltspctl ltsp-controller ltsp-satellite; do $(BIN)/$$b man $(BUILD)/man || exit 1; done

clean:
	rm -rf $(BUILD)
