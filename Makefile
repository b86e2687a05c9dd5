# `make demo` runs the whole way from pictures to the table, `make test` passes the tests.
# Both first get what they need: the native libraries, into a cache of the user.

CARGO ?= cargo
TOOLKIT = $(CARGO) run --quiet --release --features train --bin toolkit --
DEMO = examples/demo

.PHONY: native build demo test lint bench bench-train bench-eval bench-metrics conformance

# libtorch and libonnxruntime: with CUDA=1 for NVIDIA GPUs, with CUDA=0 for the CPU, else what is there already,
# at first for the CPU.
native:
	@python3 native/install.py $(if $(filter 1,$(CUDA)),--cuda) $(if $(filter 0,$(CUDA)),--cpu)

build: native
	$(CARGO) build --release --features train

# Fine-tunes on the small data set in the repository, exports, and evaluates on two runtimes.
demo: build
	rm -rf runs/demo
	$(TOOLKIT) train --known $(DEMO) --unknown textures=$(DEMO)/textures \
	  --backbone $(DEMO)/backbone.safetensors --epochs 4 --held-out 0.1 --run runs/demo
	$(TOOLKIT) export --run runs/demo runs/demo/model.onnx
	$(TOOLKIT) eval runs/demo/model.onnx --provider cpu --provider onnxruntime

# The optimised build, because tract and the test networks are slow without.
test: native
	$(CARGO) test --release
	$(CARGO) test --release --features train

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --no-default-features --features tract -- -D warnings
	$(CARGO) clippy --no-default-features --features onnxruntime -- -D warnings
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --features train -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --lib --no-deps --features train

# Against PyTorch and its toolkits, in pairs of one run each; they are set up in .venv (3 GB). Training speed, evaluation
# speed, and time and memory of the metrics.
bench: bench-train bench-eval bench-metrics

bench-train: build .venv/ready
	.venv/bin/python benches/training.py target/release/toolkit

# With other data: KNOWN=data/cifar-10-batches-bin UNKNOWN=data/textures, and MODELS to compare.
KNOWN ?= $(DEMO)/cifar-10-batches-bin
UNKNOWN ?= $(DEMO)/textures
bench-eval: native .venv/ready
	$(CARGO) build --release
	.venv/bin/python benches/evaluation.py target/release/toolkit $(KNOWN) $(UNKNOWN) $(MODELS)

bench-metrics: .venv/ready
	$(CARGO) build --release --no-default-features --bench metrics
	.venv/bin/python benches/metrics.py "$$(ls -t target/release/deps/metrics-* | grep -v '\.d$$' | head -1)"

.venv/ready: benches/requirements.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement $<
	touch $@

# The built-in model in every runtime that a user may have, on the same pictures, and in every example. Needs Node.js and
# Chromium (or CHROMIUM, its path); the C example ORT_INCLUDE, the folder of onnxruntime_c_api.h, and the one on Spark
# Java, without which these are left out. Sets up the rest beside the tests.
conformance: native tests/conformance/.venv/ready tests/conformance/node_modules/ready examples/web/node_modules/ready
	$(CARGO) build --release --bin toolkit --example score_raw
	tests/conformance/.venv/bin/python tests/conformance/run.py exported/cifar10-wrn-40-2.onnx \
	  target/release/examples/score_raw
	tests/conformance/.venv/bin/python tests/conformance/triton.py target/release/toolkit \
	  tests/golden/checkpoints/wrn.pt
	tests/conformance/.venv/bin/python tests/conformance/examples.py target/release/toolkit \
	  exported/cifar10-wrn-40-2.onnx
	node tests/conformance/page.mjs target/release/toolkit target/page.png \
	  $$(ls examples/demo/textures/*/*.png tests/golden/pictures/*.jpg | sed -n '1~40p')

tests/conformance/.venv/ready: tests/conformance/requirements.txt
	python3 -m venv tests/conformance/.venv
	tests/conformance/.venv/bin/python -m pip install --quiet --requirement $<
	touch $@

%/node_modules/ready: %/package.json
	npm install --prefix $* --ignore-scripts --no-audit --no-fund --no-package-lock
	touch $@
