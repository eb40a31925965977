# `make demo` and `make test` are all a newcomer needs; both install what they use into .venv.
PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check chaos bench format docs pdf pictures lock release

demo: $(VENV)/.demo ## the job against a private database and a local Iterable
	$(PY) main.py --demo

test: $(VENV)/.dev ## all tests, on a real database server
	$(PY) -m pytest -n auto $(TESTS)

check: $(VENV)/.dev ## lint, types, tests
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy
	$(MAKE) test

bench: $(VENV)/.dev ## the figures of benchmarks/RESULTS.md, measured again; QUICK=1 tries them
	$(PY) -m benchmarks.run $(if $(QUICK),--scale 0.05)

docs: $(VENV)/.dev ## what the documents take from the code: the help text
	$(PY) -m cogapp -r README.md

pdf: $(VENV)/.docs ## docs/handbook.pdf, from the documents
	$(PY) -m tools.handbook

pictures: $(VENV)/.docs ## the pictures of README.md and docs/SAMPLE_RESULTS.json; needs chromium
	$(PY) -m tools.pictures

lock: $(VENV)/.dev ## requirements/lock.txt, from requirements.txt
	$(PY) -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --output-file requirements/lock.txt requirements.txt

release: docs pictures pdf check ## what a release needs once its version and its changelog are written

chaos: $(VENV)/.dev ## kills, faults, dead databases and full disks, for at most ten minutes
	$(PY) -m tests.chaos.run

format: $(VENV)/.dev ## rewrite the sources in the house style
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What a run needs: the locked packages, as on a server.
$(VENV)/.run: requirements/lock.txt | $(PY)
	$(PIP) --require-hashes -r requirements/lock.txt
	@touch $@

# The demo's own server is downloaded only where none is installed.
$(VENV)/.demo: requirements/demo.txt $(VENV)/.run
	command -v mariadbd || command -v mysqld || $(PIP) -r requirements/demo.txt
	@touch $@

$(VENV)/.dev: requirements/demo.txt requirements/dev.txt $(VENV)/.run
	$(PIP) -r requirements/dev.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.dev
	$(PIP) -r requirements/docs.txt
	@touch $@

