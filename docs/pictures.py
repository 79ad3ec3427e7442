"""Draws the pictures of the documentation from real runs: `python docs/pictures.py [cartpole]
[plots] [pong] ...`.

cartpole.png   the returns of a run
cartpole.gif   the policy before training (left) and after it (right), four seconds each
plots.png      three seeds each of PPO and DQN, by the command
pong.gif       APPO after a few minutes, eight seconds (Poise's player is the right one)
durations.png  PyTorch's tutorial on DQN: 600 episodes
watch-*.png    the live page: all runs, one run in light and dark, and a search
samplers.png   the best of a search so far, by who proposes, as `benchmarks/tune.py --only samplers`
               has measured it
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

import poise
from poise.tracking.plots import figure_class, save_figure

IMAGES = Path(__file__).parent / "images"
FPS = 25
WIDTH = 220
SECONDS = 4

# Both films side by side, small, at half the frames, with a palette of few colours: CartPole has no
# more.
FILTER = (
    f"[0]fps={FPS},crop=600:320:0:80,scale={WIDTH}:-1:flags=lanczos,pad=iw+4:ih:0:0:white[left];"
    f"[1]fps={FPS},crop=600:320:0:80,scale={WIDTH}:-1:flags=lanczos[right];"
    "[left][right]hstack,split[a][b];[a]palettegen=max_colors=24[palette];"
    "[b][palette]paletteuse=dither=none"
)


# The console's pictures have few colours; the score above the field is what one looks for.
PONG_FILTER = "split[a][b];[a]palettegen=max_colors=16[palette];[b][palette]paletteuse=dither=none"


def cartpole() -> None:
    with tempfile.TemporaryDirectory() as folder:
        before, after = f"{folder}/before.mp4", f"{folder}/after.mp4"
        algo = poise.PPO("CartPole-v1", seed=1, progress=False)
        frames = 50 * SECONDS
        poise.record(algo, before, episodes=100, explore=True, max_steps=frames)
        result = algo.learn(stop={"episode_reward_mean": 475})
        poise.record(algo, after, max_steps=frames)
        shrink(save_figure(poise.plot(algo, y="return"), IMAGES / "cartpole.png"))
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-y",
            "-loglevel",
            "error",
            "-i",
            before,
            "-i",
            after,
        ]
        subprocess.run([*command, "-lavfi", FILTER, str(IMAGES / "cartpole.gif")], check=True)
    size = (IMAGES / "cartpole.gif").stat().st_size
    print(f"{algo!r}, reward {result['episode_reward_mean']:.0f}; the GIF has {size // 1024} kB")


def plots() -> None:
    def command(*args: str) -> None:
        subprocess.run([sys.executable, "-m", "poise", *args, "--folder", folder], check=True)

    with tempfile.TemporaryDirectory() as folder:
        for name in ("PPO", "DQN"):
            for seed in ("1", "2", "3"):
                goal = ("--stop", "timesteps_total=100000", "--quiet")
                command(
                    "train",
                    name,
                    "--env",
                    "CartPole-v1",
                    "--seed",
                    seed,
                    "--experiment",
                    name.lower(),
                    *goal,
                )
        command("plot", "ppo", "dqn", "--y", "return", "--out", str(IMAGES / "plots.png"))
        shrink(IMAGES / "plots.png")


def pong() -> None:
    with tempfile.TemporaryDirectory() as folder:
        film = f"{folder}/pong.mp4"
        algo = poise.APPO(
            "PongNoFrameskip-v4", seed=0, progress=False, metrics_smoothing_episodes=20
        )
        result = algo.learn(stop={"episode_reward_mean": 18})
        poise.record(algo, film)
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-y",
            "-loglevel",
            "error",
            "-ss",
            "30",
            "-t",
            "8",
            "-i",
            film,
        ]
        subprocess.run([*command, "-lavfi", PONG_FILTER, str(IMAGES / "pong.gif")], check=True)
    size = (IMAGES / "pong.gif").stat().st_size
    print(f"{algo!r} after {result['time_total_s']:.0f} s; the GIF has {size // 1024} kB")


def durations() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = poise.run(
            "DQN",
            "CartPole-v1",
            preset="tutorial",
            seed=1,
            stop={"episodes_total": 600},
            folder=folder,
        )
        shrink(save_figure(poise.plot(run, x="episodes", y="length"), IMAGES / "durations.png"))


def samplers() -> None:
    lines = (IMAGES.parents[1] / "benchmarks" / ".results" / "tune.jsonl").read_text().splitlines()
    records = [
        record for line in lines if (record := json.loads(line))["item"].startswith("sampler ")
    ]
    figure = figure_class()(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in (("random", "random"), ("tpe", "TPE")):
        curves = np.array(
            [record["curve"] for record in records if record["item"].startswith(f"sampler {name} ")]
        )
        trials = np.arange(1, curves.shape[1] + 1)
        axes.plot(
            trials, np.median(curves, 0), label=f"{label}, median of {len(curves)} searches", lw=2
        )
        axes.fill_between(trials, curves.min(0), curves.max(0), alpha=0.2)
    axes.set(
        xlabel="trials",
        ylabel="best mean return so far",
        title="PPO on Acrobot-v1, seven settings searched",
    )
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    shrink(save_figure(figure, IMAGES / "samplers.png"))


def watch() -> None:
    """Real runs, and the page in the Chromium of the system."""
    sys.path.append(str(IMAGES.parents[1] / "tests"))
    from browsers import browser
    from test_watch import serving

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        for seed in (1, 2, 3):
            poise.run(
                "PPO",
                "CartPole-v1",
                evaluation_interval=6,
                seed=seed,
                stop={"timesteps_total": 100_000},
                video=seed == 1,
                folder=runs,
                experiment="cartpole",
                name=f"ppo-{seed}",
                quiet=True,
            )
        stop = {"timesteps_total": 6_000}
        about = {"folder": runs, "quiet": True, "stop": stop}
        poise.run("DQN", "CartPole-v1", seed=1, experiment="cartpole", name="dqn-1", **about)
        poise.run("SAC", "Pendulum-v1", seed=1, experiment="pendulum", name="sac-1", **about)
        searched = {
            "env": "CartPole-v1",
            "lr": poise.tune.loguniform(1e-5, 3e-2),
            "gamma": poise.tune.choice([0.9, 0.98, 0.99]),
            "entropy_coeff": poise.tune.uniform(0, 0.05),
        }
        poise.tune.run(
            "PPO", config=searched, stop={"timesteps_total": 12_000}, num_samples=24, preset=None,
            folder=runs, experiment="search", parallel=1, quiet=True,
        )  # fmt: skip
        with serving(runs) as url, browser() as opened:
            for name, place, scheme, ready in (
                ("runs", "/", "light", "tbody a"),
                ("run-light", "/run/cartpole/ppo-1", "light", "#others .small"),
                ("run-dark", "/run/cartpole/ppo-1", "dark", "#others .small"),
                ("search", "/study/search", "light", "polyline"),
            ):
                size = {"width": 1180, "height": 860}
                page = opened.new_page(viewport=size, color_scheme=scheme)
                page.goto(url)
                page.wait_for_selector("tbody a")
                if name == "runs":
                    page.fill("input.filter", "env:CartPole experiment:cartpole")
                    page.select_option("select", "algorithm")
                page.evaluate("place => { location.hash = place }", place)
                page.wait_for_selector(ready)
                page.wait_for_timeout(1500)  # films show their first frame
                page.screenshot(path=IMAGES / f"watch-{name}.png")
                shrink(IMAGES / f"watch-{name}.png")
                page.close()


def shrink(picture: Path) -> None:
    """A palette is enough for lines, and takes a third of the space."""
    Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)


if __name__ == "__main__":
    drawn = {made.__name__: made for made in (cartpole, plots, pong, durations, watch, samplers)}
    for name in sys.argv[1:] or drawn:
        drawn[name]()
