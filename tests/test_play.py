"""`poise play`: a person at one seat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.test_selfplay import SETTINGS, Higher

import poise
from poise.cli import play
from poise.cli.main import poise as command

NAME = f"{__name__}:Shown"


class Shown(Higher):
    """It can be looked at, as text or as frames."""

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.render_mode = (config or {}).get("render_mode")

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"sums: {self.sums}"
        return np.full((16, 16, 3), 50 * self.t, np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poise.PPO(NAME, **SETTINGS).save(tmp_path_factory.mktemp("play") / "saved")


class Terminal:
    """Standard input that says it is a terminal, and is what a test types."""

    def __getattr__(self, name: str) -> Any:
        import sys

        return (lambda: True) if name == "isatty" else getattr(sys.stdin, name)


def typed(saved: Path, monkeypatch: pytest.MonkeyPatch, words: str, *options: str) -> Result:
    """What the command prints when a person types these words, and then Ctrl-D."""
    monkeypatch.setattr(play, "sys", type("", (), {"stdin": Terminal()}))
    line = ["play", str(saved), "--trust", "--explore", *options]
    return CliRunner().invoke(command, line, input="\n".join(words.split()))


def test_a_person_plays_one_seat(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = typed(saved, monkeypatch, "2 three 9 2 2", "--seat", "right")
    assert done.exit_code == 0, done.output
    assert done.output.count("right, your move (0, 1, 2): ") == 5
    assert all(f"'{word}' is not one of '0', '1', '2'." in done.output for word in ("three", "9"))
    moves = [line for line in done.output.splitlines() if line.startswith("left plays ")]
    left = sum(int(line[-1]) for line in moves)
    assert len(moves) == 3
    assert f"sums: {{'left': {left}, 'right': 6}}" in done.output
    end = "You win: left -1, right 1" if left < 6 else "A tie: left 0, right 0"
    assert done.output.endswith(f"{end}\n")


def test_ctrl_d_ends_and_a_film_is_kept(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = typed(saved, monkeypatch, "1 1 1 0", "--episodes", "3")
    assert done.exit_code == 0, done.output
    assert done.output.count("left, your move") == 5
    film = tmp_path / "game.mp4"
    done = typed(saved, monkeypatch, "0 1 2", "--record", str(film))
    assert done.output.endswith(f"{film}\n")
    assert film.stat().st_size > 0


def test_a_seat_must_be_one_of_the_game(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = typed(saved, monkeypatch, "", "--seat", "rigt")
    assert done.exit_code == 2
    assert "the seats are left, right. Did you mean 'right'?" in done.output
    assert "--seat 2 is not allowed" in typed(saved, monkeypatch, "", "--seat", "2").output
    with pytest.raises(poise.ConfigError, match="takes a game of several agents"):
        play.Game(play.playing("CartPole-v1", {}, filmed=False), poise.PPO("CartPole-v1"))


def test_without_a_terminal_it_says_so(saved: Path) -> None:
    done = CliRunner().invoke(command, ["play", str(saved)], input="0\n")
    assert done.exit_code == 2
    assert "poise play needs a terminal" in done.output


def test_boards_are_readable() -> None:
    planes = np.zeros((3, 2, 2), np.int8)
    planes[0, 1, 0] = planes[2, 0, 1] = 1
    seen = {"observation": planes, "action_mask": np.ones(3)}
    assert play.readable(seen) == "observation:\n. X\n. .\nO ."
    assert play.readable({"cards": np.array([3, 1]), "turn": 2}) == "cards:\n[3 1]\nturn:\n2"
    assert play.readable(np.full((3, 3, 2), 7)) == str(np.full((3, 3, 2), 7))
