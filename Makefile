# Two commands are enough: `make demo` shows the product, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo serve up down test test-docker check bench bench-images lock clean
setup: $(READY)

$(READY): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

serve: setup
	$(BIN)/inferctl serve --config config/inference_manager.json --host 127.0.0.1 --port 8000

# The same as containers: with GPUs where nvidia-smi sees any (GPU=0: without), models in a volume or in MODELS_DIR.
GPU ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1)
BUILD ?= --build
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
COMPOSE_WITH = $(COMPOSE) -f compose/compose.yaml $(if $(filter 1,$(GPU)),,-f compose/compose.cpu.yaml) \
	$(if $(MODELS_DIR),-f compose/compose.models.yaml)
ifdef MODELS_DIR
export INFERENCE_MANAGER_MODELS_DIR := $(MODELS_DIR)
endif
INFERENCE_MANAGER_NAME ?= $(shell sed -n 's/^INFERENCE_MANAGER_NAME=//p' compose/.env)

up: compose/.env
	$(COMPOSE_WITH) up --detach $(BUILD)

# Engines are not compose's own: they would outlive it, for the next start to take over.
down: compose/.env
	$(COMPOSE_WITH) stop controlplane
	docker ps --all --quiet --filter label=im.managed=1 \
		--filter volume=$(or $(INFERENCE_MANAGER_NAME),inference-manager)-models | xargs --no-run-if-empty docker rm --force
	$(COMPOSE_WITH) down

compose/.env: | compose/.env.example
	umask 077 && sed "s/^\(INFERENCE_MANAGER_KEY=\)$$/\1$$($(PYTHON) -c 'import secrets; print(secrets.token_hex(24))')/" \
		compose/.env.example > $@

# The parts first, side by side; the diffusers engine's parts with its own environment's Python; then what starts
# processes and engines, one at a time; then real containers, for which a Docker engine is installed and started where
# there is none (as root), and the images are built.
PYTEST := $(BIN)/pytest $(PYTEST_FLAGS)
test: setup
	$(PYTEST) -n 2 tests/unit tests/property
	$(BIN)/python tests/engines/run.py
	$(PYTEST) tests/contract tests/integration tests/e2e
	$(MAKE) test-docker

test-docker: setup
	$(PYTEST) -n 2 --dist loadfile tests/docker --ignore=tests/docker/test_compose_system.py
	$(PYTEST) tests/docker/test_compose_system.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.warm_path

# With a GPU: ENGINE=diffusers-cuda IMAGES="--device cuda --shape sdxl --size 1024 --dtype bfloat16"
ENGINE ?= diffusers-cpu
bench-images: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.in_environment $(ENGINE) benchmarks.image_batching $(IMAGES)

# uv is needed only here. The locks name exact versions and hashes, never where they come from.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header
lock:
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
