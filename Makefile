# `make demo` and `make test` are all that a fresh machine needs: each makes .venv and installs what it lacks first.
.NOTPARALLEL:
.PHONY: help demo test durations check format docs figures lock clean

PIP_INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check
# More for one run, such as `make test ARGS="-k water_filling"`.
ARGS =

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r target what; do printf 'make %-7s %s\n' "$$target" "$$what"; done

demo: .venv/.core ## fine-tune a language model over a simulated cell, end to end
	.venv/bin/wavetune run sflllm $(ARGS)

test: .venv/.dev ## run the tests
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

durations: ## keep how long the tests of the last `make test` took in tests/durations.md
	.venv/bin/python tools/list_durations.py

check: .venv/.dev ## lint, format, types, import order and spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/codespell
	.venv/bin/hadolint deploy/Dockerfile
	.venv/bin/pyright

format: .venv/.dev ## rewrite the code in the house format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

figures: .venv/.core ## draw the planner's figures into docs/figures/ (some minutes)
	.venv/bin/python tools/draw_figures.py

docs: .venv/.docs ## build the documentation into site/
	.venv/bin/mkdocs build --strict

lock: ## pin in constraints.txt what a fresh environment resolves to (after a change of dependencies)
	@$(FIND_PYTHON); "$$python" -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet -e ".[dev,docs,flower]"
	{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf build/lock

clean: ## remove the environment and everything built
	rm -rf .venv build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A stamp for each set of dependencies: pip runs again only after a change of these two files.
.venv/.dev: EXTRAS = [dev]
.venv/.docs: EXTRAS = [docs]
.venv/.core .venv/.dev .venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing wavetune$(EXTRAS) and its dependencies into .venv (once, a few minutes)"
	$(PIP_INSTALL) --constraint constraints.txt --editable ".$(EXTRAS)"
	@touch $@

.venv/bin/python:
	@$(FIND_PYTHON); "$$python" -m venv --clear .venv || { rm -rf .venv; exit 1; }

# Sets $$python to the first of these that is new enough; a name on the command line (make PYTHON=...) comes first.
define FIND_PYTHON
for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && break; \
  python=; \
done; \
if [ -z "$$python" ]; then \
  echo "wavetune needs Python 3.11 or newer, and none was found: install one, or name it with make PYTHON=/path/to/python3" >&2; \
  exit 1; \
fi
endef
