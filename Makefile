# `make demo` and `make test` need nothing but Python 3.11 or newer and make.
# Each target makes the virtual environment that it needs, and makes it again when the pins change.

PYTHON ?= python3
WORKERS ?= 2
PYTEST_FLAGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

ENVIRONMENTS := .venv .venv-demo .venv-lint
INSTALLED := $(ENVIRONMENTS:=/.installed)

.DELETE_ON_ERROR:
.PHONY: help demo test lint typing build clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv-demo/.installed  ## Train on handwritten digits with NumPy alone
	.venv-demo/bin/python -m unified_loss demo

test: .venv/.installed  ## Run the whole test suite with every backend, and measure coverage
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report term $(PYTEST_FLAGS)

lint: .venv-lint/.installed  ## Check style and format
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .

typing: .venv-lint/.installed  ## Check the types
	.venv-lint/bin/mypy

build: .venv-lint/.installed  ## Build sdist and wheel, and try each in an empty environment
	rm -rf dist
	.venv-lint/bin/python -m build --outdir dist
	set -e; for package in dist/*; do \
		$(PYTHON) -m venv --clear .venv-build; \
		.venv-build/bin/pip install --quiet --constraint constraints.txt "$$package"; \
		.venv-build/bin/python -I -m unified_loss doctor; \
	done

clean:  ## Remove the environments and all that was built or cached
	rm -rf .venv .venv-* dist build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find unified_loss tests docs -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: extras := dask,jax,mlx,tensorflow,test,torch
.venv-demo/.installed: extras := demo
.venv-lint/.installed: extras := lint

$(INSTALLED): %/.installed: pyproject.toml constraints.txt
	@echo "Installing [$(extras)] into $* (the first time this downloads the packages)"
	$(PYTHON) -m venv --clear $*
	$*/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[$(extras)]'
	@touch $@
