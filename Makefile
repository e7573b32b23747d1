# What can be done with this tree. Everything here runs as root on a Debian 12 machine with Rust.

TARGET   := x86_64-unknown-linux-gnu
PROGRAMS := $(notdir $(wildcard bin/*))
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: release quickstart quickdown test test-containerd test-guest test-full dragonfly conformance \
	critest kubelet bench bench-cri bench-remote help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

release: ## Static release binaries into dist/
	cargo build --release --locked $(PROGRAMS:%=--bin %)
	@mkdir -p dist
	@# Into place by rename: a program that runs cannot be written to.
	@for program in $(PROGRAMS); do \
	    cp target/$(TARGET)/release/$$program dist/.$$program.new && \
	    if cmp -s dist/.$$program.new dist/$$program; then rm dist/.$$program.new; \
	    else mv dist/.$$program.new dist/$$program; fi || exit 1; \
	done
	@ls -lh $(PROGRAMS:%=dist/%)

quickstart: ## Build, start pouchd, make an image, run a container
	@scripts/build-needs.sh
	@$(MAKE) --no-print-directory release
	@scripts/quickstart.sh

quickdown: ## Stop and remove everything that quickstart made
	@scripts/quickdown.sh

test: ## Format, lints, unit tests, end-to-end tests
	@scripts/test.sh

test-guest: ## Debian with systemd and cgroup v2 under QEMU
	@scripts/guest/run

test-containerd: ## The end-to-end tests over an existing containerd, and 1,000 containers there
	@scripts/test.sh over-containerd

test-full: ## All tests there are
	@status=0; scripts/test.sh || status=1; scripts/test.sh over-containerd || status=1; \
	scripts/guest/run || status=1; scripts/dragonfly/run || status=1; \
	$(MAKE) --no-print-directory critest || status=1; scripts/conformance/kubelet || status=1; exit $$status

dragonfly: ## Three hosts and the real Dragonfly, where its programs are
	@scripts/dragonfly/run

# Whole each time, which takes a minute.
critest: ## Kubernetes' validation of runtimes on pouchd: by itself, with runc, over both containerds
	@status=0; scripts/conformance/run || status=1; scripts/conformance/run --handler runc || status=1; \
	for version in 1.6 1.6-local 2 2-local; do \
	    scripts/conformance/run --runtime pouch-containerd-$$version || status=1; \
	done; exit $$status

kubelet: ## A real kubelet runs static pods on pouchd
	@scripts/conformance/kubelet

conformance: ## critest, kubelet and Dragonfly
	@status=0; $(MAKE) --no-print-directory critest || status=1; scripts/conformance/kubelet || status=1; \
	scripts/dragonfly/run || status=1; exit $$status

bench: ## Side by side with dockerd and containerd
	@bench/run

bench-cri: ## Pods side by side with containerd 1.6 and 2
	@bench/cri

bench-remote: ## Both engines on one containerd
	@bench/run --containerd --parts run,exec,cpu
