# From a bare machine with Python 3.11 and make: `make demo`, `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo
SEED ?= 1

# The S3 server of the tests (Apache-2.0), built with Go 1.25 or newer in about three minutes.
S3_SERVER := github.com/versity/versitygw/cmd/versitygw@v1.8.0

.PHONY: install lock demo test docs vllm browser s3 flink conformance lint types check clean

install: $(VENV)/.installed

# Every file that pip installs has a sha256 in requirements.lock.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# requirements.lock from pyproject.toml and constraints.txt, for CPython 3.11 on Linux x86_64.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	head -4 requirements.lock >.venv-lock/head
	.venv-lock/bin/uv pip compile pyproject.toml --extra all --extra dev -c constraints.txt --python-version 3.11 \
	  --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-header --no-annotate -q -o .venv-lock/lock
	cat .venv-lock/head .venv-lock/lock >requirements.lock
	rm -rf .venv-lock

demo: install
	$(BIN)/reelmill demo --out $(OUT) --seed $(SEED)

# As many test processes as there are cores; the tests of one file stay together and share what is expensive to make.
test: install
	$(BIN)/python -m pytest -n auto --dist loadfile

# The generated tables of docs/*.md: columns and their meanings, thresholds and their defaults.
docs: install
	$(BIN)/python -m pipelines.tools.document_tables

# Real vLLM on the CPU, in an environment of its own, for tests/pipelines/annotate/test_vllm.py: 3.5 GB.
vllm: .venv-vllm/.installed

.venv-vllm/.installed: constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-vllm.txt
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Chromium, for the tests of the report's pages; without it they are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  { command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium; } || \
	  echo "no Chromium and no apt-get: tests of the pages will be skipped"

# An S3 server on this machine, for the tests of s3://; without it they are skipped.
s3: .s3-server/versitygw

.s3-server/versitygw:
	GOBIN=$(CURDIR)/.s3-server go install $(S3_SERVER)

# Flink 1.19 from PyPI and Beam's job server for it, built by Maven and Java 17, for the tests of docs/clusters.md:
# 400 MB, about two minutes. Without it those tests are skipped.
flink: .flink/engine/pyflink/version.py .flink/flink-job-server.jar

.flink/engine/pyflink/version.py: infra/deploy/flink/engine.lock | install
	rm -rf .flink/engine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
	  --target .flink/engine -r $<
	touch $@

.flink/flink-job-server.jar: infra/deploy/flink/job-server/pom.xml
	mvn --quiet --batch-mode -f $< -Dbuild.folder=$(CURDIR)/.flink/build package
	mv .flink/build/flink-job-server.jar $@
	rm -rf .flink/build

# Every job of every stage on a Beam runner, compared with one process: RUNNER is its name, BEAM its options.
conformance: install
	REELMILL_RUNNER="$(RUNNER)" REELMILL_BEAM="$(BEAM)" $(BIN)/python -m pytest -n 0 tests/pipelines/test_conformance.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) .venv-vllm .s3-server .flink build dist *.egg-info
