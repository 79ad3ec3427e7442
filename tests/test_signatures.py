"""Editors and type checkers see every setting.

Signatures, docstrings and the stub come from the configurations.
"""

from __future__ import annotations

import importlib.util
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import poise
from poise.config.algorithms import ALGORITHMS
from poise.config.resolve import field_types
from poise.config.signature import stub

STUB = Path(poise.__file__).parent / "signatures.pyi"

SNIPPET = """
import poise
algo = poise.PPO("CartPole-v1", lr=1e-3, gae_lambda=0.9, n_epochs=3, preset=None)
algo = poise.PPO("CartPole-v1", model={"fcnet_hiddens": [64]})
algo.train()["episode_reward_mean"]
poise.DQN("CartPole-v1", lr=[[0, 1e-3], [1000, 1e-4]], double_q=False, model={"net_arch": [64]})
"""
MISTAKES = {
    'poise.PPO("CartPole-v1", lrr=3)': "lrr",
    'poise.PPO("CartPole-v1", lr="fast")': "lr",
    'poise.A2C("CartPole-v1", clip_param=0.2)': "clip_param",
    'poise.DQN("CartPole-v1", double_q="yes")': "double_q",
    'poise.PPO("CartPole-v1", model={"fcnet_hidens": [64]})': "model",
    'poise.PPO("CartPole-v1").trian()': "trian",
}


def test_the_stub_is_what_the_configurations_say() -> None:
    assert STUB.read_text() == stub(), "run docs/generate.py"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_help_and_completion_know_every_setting(name: str) -> None:
    made = getattr(poise, name)
    parameters = inspect.signature(made).parameters
    assert {key.partition(".")[0] for key in field_types(ALGORITHMS[name].config)} <= set(
        parameters
    )
    assert parameters["lr"].default == ALGORITHMS[name].config().lr
    text = pydoc.render_doc(made, renderer=pydoc.plaintext)
    for key in field_types(ALGORITHMS[name].config):
        assert f"{key}: " in text
    assert "Learning rate: a number, or a schedule" in text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_takes_what_is_right_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    lines = SNIPPET.strip().splitlines()
    (tmp_path / "script.py").write_text("\n".join([*lines, *MISTAKES]) + "\n")
    libraries = "".join(
        f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "numpy", "gymnasium")
    )
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nfollow_imports = silent\nignore_missing_imports = True\n{libraries}"
    )
    command = [sys.executable, "-m", "mypy", "script.py"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    environment = {"MYPYPATH": str(STUB.parent.parent), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(command, env=environment, check=False, **options).stdout  # type: ignore[call-overload]
    for number, (code, word) in enumerate(MISTAKES.items(), len(lines) + 1):
        assert any(
            line.startswith(f"script.py:{number}: error") and word in line
            for line in found.splitlines()
        ), (
            code,
            found,
        )
    assert not [
        line
        for line in found.splitlines()
        if line.startswith(tuple(f"script.py:{n}:" for n in range(1, len(lines) + 1)))
    ]
