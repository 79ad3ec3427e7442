"""Guards films and plots.

H.264 that plays everywhere, frame by frame, without a display; curves that are saved.
"""

from __future__ import annotations

import base64
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest

import poise
import warm
from environments import Scripted
from poise.envs.video import Html, film, make_filmed_env
from poise.errors import EnvError, PoiseError
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]

TINY: dict[str, Any] = {
    "preset": None,
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 1,
    "model": {"fcnet_hiddens": [8]},
}


class Filmed(Scripted):
    """One episode of `length` steps; every frame is a fresh array whose grey says which it is."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        config = config or {}
        super().__init__(lengths=(config.get("length", 5),))
        self.size = config.get("size", (48, 64))
        self.render_mode = config.get("render_mode")

    def render(self) -> np.ndarray:
        return np.full((*self.size, 3), 8 * (self.now % 32), np.uint8)


def probe(path: Path) -> dict[str, Any]:
    """What the decoder says about a film, with all its frames."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]
    return {**meta, "frames": frames}


def test_a_film_is_h264_with_every_frame(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Filmed, **TINY, env_config={"length": 30})
    made = poise.record(algo, tmp_path / "films" / "a.mp4")
    assert made["path"] == str(tmp_path / "films" / "a.mp4")
    assert made["episode_len"] == [30]
    assert made["episode_reward"] == [sum(10.0 + n for n in range(1, 31))]
    assert made["frames"] == 31  # the first observation has one too
    found = probe(tmp_path / "films" / "a.mp4")
    assert (found["codec"], found["fps"], found["size"]) == ("h264", 20.0, (64, 48))
    assert found["pix_fmt"].startswith("yuv420p")  # what browsers play
    assert imageio_ffmpeg.count_frames_and_secs(made["path"]) == (
        50,
        pytest.approx(50 / 20, abs=0.06),
    )
    greys = [int(frame.mean().round()) for frame in found["frames"]]
    # The last one stays for a second.
    assert greys == pytest.approx([8 * n for n in range(31)] + [240] * 19, abs=4)


def test_several_episodes_and_another_speed(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Filmed, **TINY)
    made = poise.record(algo, tmp_path / "a.mp4", episodes=3, fps=10)
    assert (made["episode_len"], made["frames"]) == ([5, 5, 5], 18)
    assert probe(tmp_path / "a.mp4")["fps"] == 10
    assert len(probe(tmp_path / "a.mp4")["frames"]) == 18 + 3 * 9


@pytest.mark.parametrize("episodes", [1, 5])
def test_a_film_of_an_endless_episode_ends(trainer: Make, tmp_path: Path, episodes: int) -> None:
    algo = trainer("PPO", Filmed, **TINY, env_config={"length": 10**9})
    made = poise.record(algo, tmp_path / "a.mp4", max_steps=40, episodes=episodes)
    assert made["frames"] == 40 == len(probe(tmp_path / "a.mp4")["frames"]) - 19
    assert len(made["episode_reward"]) == 1


@pytest.mark.parametrize("size", [(49, 64), (48, 65), (33, 35)])
def test_odd_sides_lose_a_pixel(trainer: Make, tmp_path: Path, size: tuple[int, int]) -> None:
    algo = trainer("PPO", Filmed, **TINY, env_config={"size": size})
    poise.record(algo, tmp_path / "a.mp4")
    height, width = size
    assert probe(tmp_path / "a.mp4")["size"] == (width - width % 2, height - height % 2)


def test_no_display_is_needed(tmp_path: Path) -> None:
    """CartPole is drawn by pygame, in a process that has no display and was not told so."""
    code = (
        "import poise, sys\n"
        "algo = poise.PPO('CartPole-v1', preset=None, seed=0, progress=False)\n"
        "print(poise.record(algo, sys.argv[1])['frames'])"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "MUJOCO_GL", "XDG_RUNTIME_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
    child = warm.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert child.returncode == 0, child.stderr
    found = probe(tmp_path / "a.mp4")
    # A second of the last one.
    assert len(found["frames"]) == int(child.stdout.split()[-1]) + 49 > 5 + 49
    assert (found["size"], found["fps"]) == ((600, 400), 50.0)
    first, last = found["frames"][0], found["frames"][-1]
    assert first.std() > 5  # something is drawn
    assert (first != last).any()


def test_filming_is_repeatable_and_does_not_disturb_training(trainer: Make, tmp_path: Path) -> None:
    ends = []
    for films in (False, True):
        algo = trainer("PPO", "CartPole-v1", **TINY)
        algo.train()
        if films:
            made = [poise.record(algo, tmp_path / f"{i}.mp4", seed=3) for i in range(2)]
            assert made[0]["episode_reward"] == made[1]["episode_reward"]
        algo.train()
        ends.append(algo.algorithm.flat.data.clone())
    assert (ends[0] == ends[1]).all()


class Blind(Scripted):
    """It takes no render mode at all."""

    def __init__(self) -> None:
        super().__init__()


class Text(Scripted):
    """It can only show itself as text."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.render_mode = "ansi"


class Flat(Filmed):
    """Its frames are grey, without colours."""

    def render(self) -> np.ndarray:
        return super().render()[..., 0]


@pytest.mark.parametrize("env", [Blind, Text, Flat, lambda config: Blind()])
def test_an_environment_that_cannot_be_filmed_is_said_so(
    trainer: Make, tmp_path: Path, env: Any
) -> None:
    algo = trainer("PPO", env, **TINY)
    with pytest.raises(EnvError) as caught:
        poise.record(algo, tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.mp4").exists()
    algo.train()  # and training goes on


@pytest.mark.filterwarnings("ignore:.*render_mode.*")
def test_a_registered_environment_without_frames_is_said_so(trainer: Make, tmp_path: Path) -> None:
    gym.register("Unseen-v0", entry_point=Blind)
    try:
        with pytest.raises(EnvError):
            poise.record(trainer("PPO", "Unseen-v0", **TINY), tmp_path / "a.mp4")
    finally:
        gym.registry.pop("Unseen-v0", None)


@pytest.mark.slow
def test_frames_are_streamed(tmp_path: Path) -> None:
    """3,000 frames of 150 kB would take 450 MB; a film must not hold more than a few of them."""
    env = make_filmed_env(Filmed, {"length": 2999, "size": (200, 256)})
    frame = 200 * 256 * 3
    tracemalloc.start()
    made = film(env, lambda obs, reward: 0, tmp_path / "a.mp4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made["frames"] == 3000
    assert peak < 20 * frame
    assert imageio_ffmpeg.count_frames_and_secs(made["path"])[0] == 3000 + 19


def test_a_film_as_html(trainer: Make, tmp_path: Path) -> None:
    path = tmp_path / 'a "<film>".mp4'
    poise.record(trainer("PPO", Filmed, **TINY), path)
    shown = poise.render_mp4(path, width=320)
    assert isinstance(shown, str)
    assert isinstance(shown, Html)
    assert shown._repr_html_() == shown
    assert shown.startswith('<video width="320" ')
    assert 'type="video/mp4"' in shown
    assert '"<film>"' not in shown  # the name is escaped
    data = shown.split("base64,")[1].split('"')[0]
    assert base64.b64decode(data) == path.read_bytes()
    with pytest.raises(PoiseError, match="no video"):
        poise.render_mp4(tmp_path / "nowhere.mp4")


# --- plots ----------------------------------------------------------------------------------------


def test_plots_of_a_trainer_a_run_and_a_folder(trainer: Make, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    algo = trainer("PPO", lambda config: Scripted(), **TINY)
    for _ in range(3):
        algo.train()
    run = poise.run("PPO", "CartPole-v1", folder=tmp_path, quiet=True, tensorboard=False, plot=True,
                    video=True, stop={"training_iteration": 6}, **TINY)  # fmt: skip
    run.trainer.close()
    for what, rows in (
        (algo, list(algo.history)),
        (run, run.folder.metrics()),
        (run.path, run.folder.metrics()),
    ):
        assert len(poise.plot(what).axes) == 2
        figure = poise.plot(what, x="episodes", y="return")
        assert isinstance(figure, Figure)
        dots, mean = figure.axes[0].lines
        assert len(dots.get_xdata()) == rows[-1]["episodes_total"]
        at = dict(zip(*mean.get_data(), strict=True))
        expected = [
            (r["episodes_total"], r["episode_reward_mean"]) for r in rows if r["episodes_total"]
        ]
        assert [at[episodes] for episodes, _ in expected] == pytest.approx(
            [mean for _, mean in expected]
        )
        assert figure.axes[0].get_title()
        assert figure.axes[0].get_xlabel() == "episodes"
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert poise.plot(algo, x="time_total_s").axes[1].get_xlabel() == "seconds"
    assert (run.path / "plots" / "episodes.png").read_bytes().startswith(b"\x89PNG")
    for name in ("before", "after"):
        assert len(probe(run.path / "videos" / f"{name}.mp4")["frames"]) > 5


def test_a_plot_of_nothing_is_said_so(trainer: Make) -> None:
    algo = trainer("PPO", lambda config: Scripted(lengths=(1000,)), **TINY)
    algo.train()
    with pytest.raises(PoiseError, match="no episode has ended"):
        poise.plot(algo)


def test_a_plot_is_a_picture_in_notebooks_without_pyplot(trainer: Callable[..., Trainer]) -> None:
    algo = trainer("PPO", "CartPole-v1", num_envs_per_worker=4, rollout_fragment_length=32)
    algo.train()
    assert poise.plot(algo)._repr_png_().startswith(b"\x89PNG")


class Shows(gym.Env):
    """Says in its metadata how it renders."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, modes: list[str], strict: bool, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": modes}
        assert not strict or render_mode is None or render_mode in modes
        self.render_mode = render_mode


@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_filmed_says_what_its_metadata_lists(strict: bool) -> None:
    with pytest.raises(
        EnvError,
        match=r"Shows cannot be filmed: .*render_mode.*, and its metadata has render_modes=\['hu",
    ):
        make_filmed_env(Shows, {"modes": ["human", "ansi"], "strict": strict})


class Odd(Filmed):
    """Renders in an odd way."""

    def __init__(self, frame: Any, metadata: Any) -> None:
        super().__init__()
        self.frame, self.metadata = frame, metadata

    def render(self) -> Any:
        return self.frame


ODD = {
    "one pixel": (np.full((1, 1, 3), 200, np.uint8), 200),
    "odd sides": (np.full((7, 1, 3), 200, np.uint8), 200),
    "fractions": (np.full((8, 8, 3), 0.5), 127),
    "floats of bytes": (np.full((8, 8, 3), 300.0), 255),
    "whole": (np.full((8, 8, 3), 100, np.int64), 100),
}


@pytest.mark.parametrize("how", ODD)
def test_odd_frames_are_filmed(how: str, tmp_path: Path) -> None:
    frame, grey = ODD[how]
    made = film(
        Odd(frame, {"render_fps": None}), lambda obs, reward: 0, tmp_path / "a.mp4", max_steps=3
    )
    found = probe(tmp_path / "a.mp4")
    assert (made["frames"], found["fps"]) == (3, 30.0)
    assert found["frames"][0].mean() == pytest.approx(grey, abs=4)


@pytest.mark.parametrize("name", ["-a.mp4", "http:a.mp4", "a:b%d.mp4", "file:c.mp4"])
def test_names_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film(Odd(np.zeros((8, 8, 3), np.uint8), {}), lambda obs, reward: 0, name, max_steps=2)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert Path(name).stat().st_size > 500


def test_an_environment_that_fails_while_it_is_filmed(tmp_path: Path) -> None:
    class Fails(Odd):
        def step(self, action: Any) -> Any:
            raise KeyError("door")

    with pytest.raises(
        EnvError,
        match=r"Fails raised KeyError: 'door' in step\(\) while it was filmed\.\nTraceback",
    ):
        film(Fails(np.zeros((8, 8, 3), np.uint8), {}), lambda obs, reward: 0, tmp_path / "a.mp4")

    class Blank(Odd):
        def render(self) -> Any:
            raise ZeroDivisionError("no light")

    with pytest.raises(
        EnvError,
        match=r"Blank raised ZeroDivisionError: no light in render\(\) while it was filmed",
    ):
        film(Blank(None, {}), lambda obs, reward: 0, tmp_path / "a.mp4")
    with pytest.raises(EnvError, match=r"^render\(\) returned NoneType; a frame is"):
        film(Odd(None, {}), lambda obs, reward: 0, tmp_path / "b.mp4")
