# make demo   the whole main job, shown and checked, on servers of its own
# make up     the whole stack, kept running until Ctrl-C; data in .meshes/; LOOPBACK=1 lets it deliver to this machine
# make test   everything that must hold before a change lands

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
FLOCK := $(if $(shell command -v flock),flock .venv/.lock)
# Throw-away values: lint loads the settings, and opens no connection.
LINT := SECRET_KEY=a-throw-away-value-with-which-lint-loads-the-settings-only FERNET_KEYS=VGhyb3ctYXdheSBrZXkgZm9yIGxpbnQsIG5vIG1vcmU= MESHES_DATA_DIR=/nonexistent PYTHONWARNINGS=ignore::RuntimeWarning
PIP_COMPILE := $(BIN)/pip-compile -q --no-allow-unsafe --unsafe-package=meshes --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links

# $(call install,base): the locked packages, checked by hash. The lock lets two makes run at the same time.
install = mkdir -p .venv && $(FLOCK) sh -ec '\
	test .venv/$(1).stamp -nt requirements/$(1).txt && exit; \
	test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with venv, is needed: make PYTHON=/path/to/python"; exit 1; }; \
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv; \
	echo "Installing requirements/$(1).txt ..."; \
	rm -f .venv/.installed; \
	{ $(BIN)/pip install --no-input --disable-pip-version-check --progress-bar off --require-hashes \
		-r requirements/$(1).txt && touch .venv/.installed; } | awk "/^Collecting/ && ++n % 20 == 0 { \
		print \"  \" n \" packages found\" } /^Installing/ { print \"  installing \" n \" packages\" } { fflush() }"; \
	test -e .venv/.installed; \
	touch .venv/$(1).stamp'

.PHONY: demo up test test-fast test-frozen lint audit faults bench bench-quick bench-lanes lock pin test-vendors

demo: .venv/base.stamp
	@exec $(BIN)/python manage.py demo

up: .venv/base.stamp
	@exec $(BIN)/python manage.py up $(if $(filter-out 0,$(LOOPBACK)),--loopback) $(if $(filter-out 0,$(NEW_KEYS)),--new-keys) $(if $(filter-out 0,$(ONLY_DATABASE)),--only-database)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/pytest -m alone

# The tests that need no server and no process of their own.
test-fast: .venv/dev.stamp
	$(BIN)/pytest --fast -n 2 -q

# What clients rely on, over HTTP alone: tests/frozen/README.md.
test-frozen: .venv/dev.stamp
	$(BIN)/pytest tests/frozen -q

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(LINT) $(BIN)/mypy .
	$(LINT) $(BIN)/lint-imports
	$(LINT) $(BIN)/python manage.py makemigrations --check --dry-run

# Known holes in what is locked, where the package registry tells of them: SECURITY.md.
audit: .venv/dev.stamp
	@$(BIN)/python -m tools.audit

# The fault tests of `make test`, many times over.
faults: .venv/dev.stamp
	MESHES_FAULT_ROUNDS=$${MESHES_FAULT_ROUNDS:-25} $(BIN)/pytest -m fault

# Everything that docs/performance.md shows, and the page itself; see there for scenarios and scale.
bench: .venv/bench.stamp
	$(BIN)/python -m bench

# Throughput, latency, isolation and ingest against the baselines, small, in under two minutes.
bench-quick: .venv/dev.stamp
	$(BIN)/python -m bench --quick

bench-lanes: .venv/dev.stamp
	$(BIN)/python -m bench.lanes

# image.txt is what the image has, flower.txt that and Flower, base.txt what `make demo` and `make up` run on.
lock: .venv/dev.stamp
	$(PIP_COMPILE) --output-file=requirements/image.txt pyproject.toml
	$(PIP_COMPILE) --extra=flower --constraint=requirements/image.txt --output-file=requirements/flower.txt pyproject.toml
	$(PIP_COMPILE) --extra=stack --constraint=requirements/flower.txt --output-file=requirements/base.txt pyproject.toml
	$(PIP_COMPILE) --extra=dev --constraint=requirements/base.txt --output-file=requirements/dev.txt pyproject.toml
	$(PIP_COMPILE) --extra=bench --constraint=requirements/dev.txt --output-file=requirements/bench.txt pyproject.toml
	$(PIP_COMPILE) --extra=vendors --constraint=requirements/dev.txt --output-file=requirements/vendors.txt pyproject.toml
	echo setuptools | $(PIP_COMPILE) --output-file=requirements/build.txt -
	$(BIN)/python -m tools.write_sbom

# The present digests of the images' versions, into compose.yaml and Dockerfile. Needs docker.
pin: .venv/dev.stamp
	@$(BIN)/python -m tools.pin_images
	@$(BIN)/python -m tools.write_sbom

# Requests to vendors, judged by what the vendors publish: tests/judges/README.md says what FROM must hold.
test-vendors: .venv/vendors.stamp
	@PYTHONWARNINGS=ignore $(BIN)/python -m tests.judges $(FROM)

.venv/base.stamp: requirements/base.txt
	@$(call install,base)

# dev.txt is base.txt and more.
.venv/dev.stamp: requirements/dev.txt
	@$(call install,dev)
	@touch .venv/base.stamp

# bench.txt is dev.txt and what draws plots.
.venv/bench.stamp: requirements/bench.txt
	@$(call install,bench)
	@touch .venv/base.stamp .venv/dev.stamp

# vendors.txt is dev.txt and the vendors' SDKs.
.venv/vendors.stamp: requirements/vendors.txt
	@$(call install,vendors)
	@touch .venv/base.stamp .venv/dev.stamp
