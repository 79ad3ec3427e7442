# `make train` and `make test` set everything up; they need Python 3.10 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JUDGE := benchmarks/.venvs/sb3
LOGGERS := benchmarks/.venvs/loggers
PIP := python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train test test-fast loggers lint docs proof clean

train: $(VENV)/.ready
	$(BIN)/poise train PPO --env CartPole-v1 --stop episode_reward_mean=475 --video --plot

test: $(VENV)/.ready $(JUDGE)/.ready lint
	$(BIN)/python -m pytest -n 2 -m "not proof"

test-fast: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 -m "not slow and not proof"

# The tests of Weights & Biases, trackio and MLflow themselves, which weigh 200 MB.
loggers: $(LOGGERS)/.ready
	$(LOGGERS)/bin/python -m pytest tests/test_loggers.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: $(VENV)/.ready
	$(BIN)/python docs/site.py

# ENVS=1 adds environments of other people's packages, which it installs.
proof: $(VENV)/.ready
	ENVS=$(ENVS) $(BIN)/python benchmarks/proof.py

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Poise needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11") if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) torch
	$(BIN)/$(PIP) -e ".[dev]"
	touch $@

# Stable-Baselines3, in an environment of its own: the independent judge of the mathematics.
$(JUDGE)/.ready: constraints.txt
	$(PYTHON) -m venv $(JUDGE)
	$(JUDGE)/bin/$(PIP) torch
	$(JUDGE)/bin/$(PIP) stable-baselines3==2.9.2 sb3-contrib==2.9.2
	touch $@

# What they need, beside all that the other tests have.
$(LOGGERS)/.ready: $(VENV)/.ready constraints.txt
	$(BIN)/python -m venv $(LOGGERS)
	$(LOGGERS)/bin/python -c 'import site; open(site.getsitepackages()[0] + "/tests.pth", "w").write("$(abspath $(VENV))/lib/python" + "%d.%d" % site.sys.version_info[:2] + "/site-packages")'
	$(LOGGERS)/bin/$(PIP) wandb trackio mlflow-skinny
	touch $@

clean:
	rm -rf $(VENV) runs dist build .pytest_cache .mypy_cache .ruff_cache
