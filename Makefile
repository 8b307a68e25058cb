# `make demo` and `make test` need nothing but Python 3.11 or newer and make.
# Each target makes the virtual environment that it needs, and makes it again when the pins change.

PYTHON ?= python3
WORKERS ?= 2
MODES ?= --one-mode
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
FUZZ_FLAGS ?=
PYTHONS ?= python3.11 python3.12 python3.13 python3.14

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The test files that tell whether a release of a framework is recent enough.
OLDEST := arguments dask_lazy dispatch gradients integration_keras integration_transformers \
	jax_transforms labels masked support tensorflow_transforms transformers_evaluation \
	transformers_models values

# An index shows README without the files beside it.
LINKS_WORK := import importlib.metadata, re; \
	text = importlib.metadata.metadata("unified_loss").get_payload(); \
	assert "cross_entropy" in text; assert not re.search(r"\]\((?!https?:|\#)", text)

# The first Python block of a Markdown page.
FIRST_EXAMPLE := awk '/^```$$/ && inside { exit } inside; /^```python$$/ { inside = 1 } END { exit !inside }'

ENVIRONMENTS := .venv .venv-bench .venv-demo .venv-dist .venv-docs .venv-fused .venv-lint .venv-oldest
INSTALLED := $(ENVIRONMENTS:=/.installed)

.DELETE_ON_ERROR:
.PHONY: help demo test suite test-fused test-oldest fuzz reports lint typing bench docs dist release-check clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv-demo/.installed  ## Train on handwritten digits with NumPy alone
	.venv-demo/bin/python -m unified_loss demo

test: $(if $(PYTEST_FLAGS),,test-fused) suite  ## Run the fused kernels, and the whole test suite with every backend

suite: .venv/.installed  ## Run the whole test suite but for the fused kernels, and measure coverage
	@echo "The whole suite takes some 30 minutes on two cores; make test WORKERS=8 runs eight files at a time"
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile $(MODES) --cov --cov-report term $(PYTEST_FLAGS)

# Triton and TensorFlow cannot be in one process.
test-fused: .venv-fused/.installed  ## Run the kernels for accelerators through Triton's interpreter, and compile them
	.venv-fused/bin/python -m pytest -n $(WORKERS) --backend torch $(PYTEST_FLAGS) tests/backends/test_fused.py

test-oldest: .venv-oldest/.installed  ## Test every backend with the oldest releases that are allowed
	.venv-oldest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(MODES) $(PYTEST_FLAGS) $(wildcard $(OLDEST:%=tests/*/test_%.py))

fuzz: .venv/.installed  ## Compare random calls, garbage where it must not matter, with formulas
	.venv/bin/python -m tests.fuzz $(FUZZ_FLAGS)

reports: .venv/.installed  ## Score the diagnosis of public reports, by framework and by cause
	.venv/bin/python -m tests.helpers.reports

lint: .venv-lint/.installed  ## Check style and format
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .

typing: .venv-lint/.installed  ## Check the types
	.venv-lint/bin/mypy

bench: .venv-bench/.installed  ## Measure time and memory beside the native losses, and plot both
	.venv-bench/bin/python -m benchmarks $(BENCH_FLAGS)

docs: .venv-docs/.installed  ## Build the documentation: docs/_build/html
	.venv-docs/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

dist: .venv-dist/.installed  ## Build sdist and wheel, and try each in an empty environment
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist
	.venv-dist/bin/twine check --strict dist/*
	set -e; for package in dist/*; do \
		$(PYTHON) -m venv --clear .venv-empty; \
		.venv-empty/bin/pip install --quiet --constraint constraints.txt "$$package"; \
		$(FIRST_EXAMPLE) README.md > .venv-empty/first_example.py; \
		.venv-empty/bin/python -I .venv-empty/first_example.py; \
		.venv-empty/bin/python -I -c '$(LINKS_WORK)'; \
		.venv-empty/bin/python -I -m unified_loss doctor; \
	done

release-check: lint typing docs dist test-fused test-oldest  ## All that a release needs, with every Python at hand
	set -e; for python in $(PYTHONS); do \
		command -v $$python > /dev/null || continue; \
		$$python -c '' 2> /dev/null || continue; \
		echo "== $$($$python --version)"; \
		rm -f .venv/.installed; \
		$(MAKE) suite PYTHON=$$python MODES=; \
	done

clean:  ## Remove the environments and all that was built or cached
	rm -rf .venv .venv-* dist build docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks unified_loss tests docs -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: extras := dask,demo,jax,keras,mlx,tensorflow,torch,transformers
.venv/.installed: group := test
# Where torch comes with CUDA, gigabytes more.
.venv/.installed: size := packages that unpack to some 4 GB
.venv-bench/.installed: extras := demo,jax,mlx,tensorflow,torch
.venv-bench/.installed: group := bench
.venv-demo/.installed: extras := demo
.venv-dist/.installed: group := dist
.venv-docs/.installed: group := docs
.venv-fused/.installed: extras := torch
.venv-fused/.installed: group := fused
.venv-lint/.installed: group := lint
.venv-oldest/.installed: extras := dask,jax,keras,mlx,tensorflow,torch,transformers
.venv-oldest/.installed: group := runner

pins := constraints.txt
.venv-oldest/.installed: pins := constraints-oldest.txt
.venv-oldest/.installed: constraints-oldest.txt
$(filter-out .venv-oldest/%,$(INSTALLED)): constraints.txt

# Groups of dependencies need a newer pip than Python 3.11 brings.
$(INSTALLED): %/.installed: pyproject.toml
	@echo "Installing $(or $(extras:%=[%]),the package) $(group:%=and group %) into $* (the first time this downloads $(or $(size),the packages))"
	$(PYTHON) -m venv --clear $*
	$*/bin/pip install --quiet --constraint $(pins) pip
	$*/bin/pip install --no-compile --constraint $(pins) $(group:%=--group %) --editable '.$(extras:%=[%])'
	@touch $@
