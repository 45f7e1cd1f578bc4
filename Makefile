# Each target starts from a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

# Tests of every room that an older package could break, without those that train for long.
QUICK := tests/test_extras.py tests/test_docstrings.py tests/test_files.py tests/cli/test_cli_commands.py \
	tests/cli/test_cli_help.py tests/cli/test_cli_plan.py tests/cli/test_cli_doctor.py tests/data/test_digits.py \
	tests/graph tests/limit/test_simulate.py tests/measure/test_audit.py tests/parametrization/test_plan_algebra.py \
	tests/parametrization/test_plan_files.py tests/parametrization/test_zoo_roles.py tests/report tests/scaling \
	tests/stats tests/studies/test_judge.py tests/runs/test_sweep_driver.py tests/runs/test_sweep_leases.py \
	tests/runs/test_table.py tests/training/test_optimizers.py

.PHONY: demo test lint docs test-lowest coverage mutants dist survey bench clean

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

# The site; its search needs no network, but a server: `python3 -m http.server -d site`. A page that cannot be built, a link that leads
# nowhere and whatever would be loaded from elsewhere are errors.
docs: .venv-docs/installed
	.venv-docs/bin/zensical build --clean --strict
	! grep -rnE '<(script|link|img|iframe)[^>]+(src|href)="(https?:)?//' site --include='*.html'

# The oldest versions that pyproject.toml admits: `make test-lowest PYTHON=python3.13` for another Python.
# What they warn of in one another, deprecated since, is no fault of ours.
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -W default::DeprecationWarning $(QUICK)

# Which lines of the pure rooms the quick tests reach.
coverage: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov=isoscale.scaling --cov=isoscale.stats --cov=isoscale.graph \
		--cov-branch --cov-report=term-missing:skip-covered tests/scaling tests/stats tests/graph tests/parametrization tests/studies

# How many faults, put into the pure rooms one at a time, their tests find. The same seed gives the same faults.
mutants: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python .ci/mutants.py --count 40 --seed 0

# What is uploaded, built, then tried where nothing else is: the core alone, then with all extras.
WHEEL := .venv-wheel/bin/python
dist: .venv/installed
	rm -rf dist .venv-wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build
	$(BIN)/python -m build
	$(PYTHON) -m venv .venv-wheel
	$(WHEEL) -m pip install --quiet --constraint constraints.txt dist/*.whl
	! $(WHEEL) -c "from importlib.metadata import metadata; print(metadata('isoscale').get_payload())" | \
		grep -nE '\]\((docs|examples)/'  # what a package index cannot show
	cp tests/core_alone.py .venv-wheel && cd .venv-wheel && bin/python core_alone.py
	! .venv-wheel/bin/isoscale --help  # says what it lacks
	$(WHEEL) -m pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[all]" pytest hypothesis beartype
	cd .venv-wheel && bin/isoscale --version && bin/isoscale doctor && \
		bin/isoscale transfer --rule completep --width 16 --depths 2 4 --log2-lr -10 -6 --seeds 2 --steps 10
	OMP_NUM_THREADS=1 $(WHEEL) -m pytest tests/scaling tests/stats tests/parametrization/test_plan_algebra.py

# Public models of many packages, planned and compared with what their architectures ask for: docs/survey.md.
survey: .venv-survey/installed
	HYPOTHESIS_PROFILE=nightly HF_HUB_OFFLINE=1 .venv-survey/bin/python -m pytest -m nightly tests/survey

bench: .venv/tested
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/conv_ensemble.py
	$(BIN)/python benchmarks/user_ensemble.py
	$(BIN)/python benchmarks/user_code.py
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/parametrize.py
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/store.py

# Everything that these targets made, but no store: trials take long.
clean:
	rm -rf .venv .venv-* dist site .cache .coverage .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	rm -rf isoscale-audit isoscale-check isoscale-law isoscale-limit isoscale-report isoscale-reproduce
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

# mup asks for torchvision, which it imports only to train on images and which does not fit torch's CPU build.
.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps mup
	touch $@

.venv-docs/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt mkdocstrings-python zensical
	touch $@

.venv-lowest/installed: pyproject.toml constraints.txt .ci/lowest.py
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --only-binary :all: --constraint .venv-lowest/constraints.txt \
		--editable '.[all]' pytest hypothesis beartype
	touch $@

# An environment of its own: beside torchvision, whose kernels do not load with torch's CPU build, mup cannot be imported.
# litgpt asks for an older huggingface-hub than the others do, and needs it only to download.
.venv-survey/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-survey
	.venv-survey/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,survey]'
	.venv-survey/bin/python -m pip install --quiet --constraint constraints.txt --no-deps litgpt
	touch $@
