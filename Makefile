# `make demo` and `make test` each start from a fresh machine: Python 3.11+, make and a C compiler.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint survey bench clean

demo: .venv/installed
	$(BIN)/isoscale transfer

# By file, because a file's tests may share what there must be only one of: a Ray cluster.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

# Public models of many packages, planned and compared with what their architectures ask for: docs/survey.md.
survey: .venv-survey/installed
	HYPOTHESIS_PROFILE=nightly HF_HUB_OFFLINE=1 .venv-survey/bin/python -m pytest -m nightly tests/survey

bench: .venv/tested
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/conv_ensemble.py
	$(BIN)/python benchmarks/user_ensemble.py
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/parametrize.py
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/adaptive_lr.py

clean:
	rm -rf .venv .venv-survey isoscale-report isoscale-law isoscale-reproduce

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# mup asks for torchvision, which it imports only to train on images and which does not fit torch's CPU build.
.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps mup
	touch $@

# An environment of its own: beside torchvision, whose kernels do not load with torch's CPU build, mup cannot be imported.
# litgpt asks for an older huggingface-hub than the others do, and needs it only to download.
.venv-survey/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-survey
	.venv-survey/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,survey]'
	.venv-survey/bin/python -m pip install --quiet --constraint constraints.txt --no-deps litgpt
	touch $@
