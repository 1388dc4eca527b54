# Everything a newcomer, a developer and CI need. Only Python 3.11+ and make are assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Tests wait for processes more than they compute.
WORKERS ?= 3
# Tests start some thousand processes, none of which may be allowed to keep what it compiles.
COMPILED := $(BIN)/python -m compileall -q berinia_webhookd
# setuptools warns at every editable installation; what fails is shown all the same.
PIP    := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run check test test-system test-console pictures test-providers soak bench docs requirements dist release deb clean
.DEFAULT_GOAL := run

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo 'Installing into $(VENV)/, which takes a minute where nothing is at hand yet.'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --editable '.[test,check,release]'
	touch $@

run: $(VENV)/installed  ## start the daemon with throw-away secrets and print lines to paste (PORT=8017: elsewhere)
	@$(BIN)/berinia-webhookd serve --dev --reload $(if $(PORT),--port $(PORT)) || { status=$$?; \
	  [ $$status != 4 ] || echo 'If it is the port that is taken: make run PORT=8017' >&2; exit $$status; }

check: $(VENV)/installed-dev  ## format, lint, types, import contracts, known vulnerabilities, links of the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/bandit --quiet --severity-level medium --recursive berinia_webhookd
	$(BIN)/python -m tests.proof.audit
	$(BIN)/python -m tests.release.site

test: $(VENV)/installed-dev  ## everything that needs PyPI only
	$(COMPILED)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not system'

test-system: $(VENV)/installed-dev $(VENV)/installed-bench  ## the tests that need programs from Debian
	tests/install_system_programs
	$(COMPILED)
	$(BIN)/pytest -m system

test-console: $(VENV)/installed-dev  ## the web console in Debian's chromium
	tests/install_system_programs chromium
	$(PIP) install --editable '.[console]'
	$(BIN)/pytest tests/browser

pictures: $(VENV)/installed-dev  ## those of the guides, made anew
	tests/install_system_programs chromium
	$(PIP) install --editable '.[console]'
	$(BIN)/pytest tests/browser/pictures.py

test-providers: $(VENV)/installed-dev  ## our proofs beside the providers' own libraries, from PyPI
	$(PIP) install --editable '.[providers]'
	$(BIN)/pytest tests/providers

SECONDS ?= 600
soak: $(VENV)/installed-dev  ## attacks, faults, kills and fuzzing for so long: make soak SECONDS=3600
	tests/install_system_programs
	$(PIP) install --editable '.[soak]'
	$(BIN)/python -m tests.proof.soak $(SECONDS)

$(VENV)/installed-bench: $(VENV)/installed
	$(PIP) install --editable '.[bench]'
	$(PYTHON) -m venv $(VENV)/peers
	PYTHONWARNINGS=ignore $(VENV)/peers/bin/python -m pip --disable-pip-version-check --quiet \
	  install --editable '.[bench-peers]'
	touch $@

bench: $(VENV)/installed-bench  ## speed beside its peers, in about a quarter of an hour; docs/performance.md shows it
	tests/install_system_programs wrk webhook nginx redis-server util-linux
	$(BIN)/python contrib/bench $(BENCH)

requirements: $(VENV)/installed-dev  ## contrib/requirements.txt anew: what the daemon runs with, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --extra postgresql --extra tracing --custom-compile-command 'make requirements' --output-file contrib/requirements.txt setup.cfg
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | $(BIN)/uv pip compile --quiet --upgrade --universal \
	  --python-version 3.11 --generate-hashes --custom-compile-command 'make requirements' \
	  --output-file contrib/build-requirements.txt -

docs: $(VENV)/installed-dev  ## the documentation as a site with a search, in build/site
	$(BIN)/python -m tests.release.site

dist: $(VENV)/installed-dev  ## wheel, source archive, bill of materials and hashes of the last commit, in dist/
	$(BIN)/python -m tests.release dist

release: $(VENV)/installed-dev  ## the next version, built, checked and committed; nothing is uploaded: make release VERSION=1.2.3
	$(BIN)/python -m tests.release release $(VERSION)

deb:  ## the package for Debian 12, in dist/
	tests/install_system_programs build-essential debhelper lintian python3-venv
	contrib/debian/build

clean:
	rm -rf $(VENV) .dev build dist *.egg-info *.whl
