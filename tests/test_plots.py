"""Guards the record of every episode and the pictures drawn of it.

The numbers in the lines, not their looks.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import poise
from environments import Scripted
from poise.cli.main import poise as command
from poise.errors import ConfigError, PoiseError, RunError
from poise.install import install
from poise.sampling.episodes import STAGES, Episode, Harvest
from poise.sampling.group import SamplerGroup
from poise.tracking import recorder
from poise.tracking.curves import STUDENT_T, History, panels, trailing_mean
from poise.tracking.find import find_runs
from poise.tracking.folder import EPISODES_HEADER, RunFolder, episode_lines
from poise.tracking.launch import Run
from poise.tracking.plots import episode_figure
from poise.training.metrics import KEPT, Metrics
from test_run_folder import small_run

Ended = tuple[int, float, float, int]


# --- a line per episode ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, with means over few episodes, whose files several tests read."""
    return small_run(
        tmp_path_factory.mktemp("runs"),
        12,
        name="r",
        rollout_fragment_length=32,
        metrics_smoothing_episodes=7,
    )


def test_every_episode_is_a_line_of_the_run(run: Any) -> None:
    assert (run.path / "episodes.csv").read_text().startswith("steps,seconds,reward,length\n")
    ended = run.folder.episodes()
    assert len(ended) == run.result["episodes_total"] > 7
    assert all(reward == length for _, _, reward, length in ended)  # CartPole
    for column in (0, 1):
        assert [e[column] for e in ended] == sorted(e[column] for e in ended)
    before = 0
    for result in run.folder.metrics():  # at the end of each iteration, both files say the same
        so_far = [e for e in ended if e[0] <= result["timesteps_total"]]
        assert len(so_far) == result["episodes_total"]
        assert so_far[-1][1] <= result["time_total_s"] + 0.001
        assert np.mean([e[2] for e in so_far[-7:]]) == pytest.approx(result["episode_reward_mean"])
        assert all(e[0] > before for e in so_far[len(so_far) - result["episodes_this_iter"] :])
        before = result["timesteps_total"]


def test_rewards_are_written_whole(tmp_path: Path) -> None:
    ended = [(3, 0.25, -1234.567890123456, 3), (9, 1.0, 1e-30, 6)]
    (tmp_path / "episodes.csv").write_text(EPISODES_HEADER + episode_lines(ended))
    assert RunFolder(tmp_path).episodes() == ended


def test_episodes_of_several_samplers_are_told_in_their_order() -> None:
    def group(rows: int, *each: list[Episode]) -> Any:
        spent = dict.fromkeys(STAGES, 0.5)
        return SamplerGroup([SimpleNamespace(halt=None, slots=1, harvest=lambda i=i: Harvest(each[i], rows, spent)) for i in range(len(each))])  # type: ignore[misc]  # fmt: skip  # noqa: E501

    metrics = Metrics(3)
    harvest = group(
        10, [Episode(1.0, 4, 0, {}, 4), Episode(4.0, 6, 0, {}, 10)], [Episode(2.0, 5, 1, {}, 5)]
    ).harvest()
    metrics.enter(harvest, 0, 20, seconds=2.0)
    assert [e.reward for e in harvest.episodes] == [1.0, 2.0, 4.0]
    assert (harvest.rows, harvest.seconds) == (10, dict.fromkeys(STAGES, 1.0))
    assert list(metrics.finished) == [(8, 0.8, 1.0, 4), (10, 1.0, 2.0, 5), (20, 2.0, 4.0, 6)]
    metrics.enter(group(20, [Episode(7.0, 8, 1, {}, 5)], []).harvest(), 20, 60, seconds=1.0)
    assert metrics.finished_this_iter == [(30, 2.25, 7.0, 8)]
    assert metrics.episodes_total == len(metrics.finished) == 4
    assert metrics.time_total_s == 3.0
    assert metrics.of_episodes()["episode_reward_mean"] == pytest.approx((2 + 4 + 7) / 3)


def test_worker_processes_tell_their_episodes_in_order(tmp_path: Path) -> None:
    run = small_run(tmp_path, 2, env="environments:Scripted", num_workers=2, num_envs_per_worker=2)
    rewards = [reward for _, _, reward, _ in run.folder.episodes()]
    assert rewards[:9] == [23.0] * 4 + [66.0] * 4 + [63.0]  # 11 + 12, 21 + 22 + 23, 31 + 32
    assert rewards == sorted(rewards, key=[23.0, 66.0, 63.0, *dict.fromkeys(rewards)].index)


def test_a_trainer_remembers_a_bounded_number_of_episodes() -> None:
    metrics = Metrics(1)
    episodes = [Episode(float(i), 1, 0, {}, i) for i in range(KEPT + 5)]
    metrics.enter(Harvest(episodes, KEPT + 5, {}), 0, KEPT + 5, 1.0)
    assert len(metrics.finished) == KEPT
    assert metrics.finished[0].reward == 5.0
    trainer: Any = SimpleNamespace(metrics=metrics, config=SimpleNamespace(to_dict=lambda: {"env": "E"}, seed=1), name="A", history=[])  # fmt: skip  # noqa: E501
    [panel] = panels([History.of_trainer(trainer)], "episodes", "return")
    # The first five were forgotten, but counted.
    assert panel.curves[0].x[[0, -1]].tolist() == [6, KEPT + 5]


class Counting(poise.Callback):
    def __init__(self) -> None:
        self.episodes = 0

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        self.episodes += result["episodes_this_iter"]


def test_there_is_one_write_per_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        recorder, "episode_lines", lambda ended: written.append(len(ended)) or episode_lines(ended)
    )
    counting = Counting()
    run = small_run(tmp_path, 5, env=lambda config: Scripted(), callbacks=[counting])
    assert len(written) == 5
    assert sum(written) == counting.episodes == len(run.folder.episodes())
    assert min(written) > 5


def test_a_resumed_run_has_every_episode_once(tmp_path: Path) -> None:
    straight = small_run(tmp_path, 8, name="straight")
    broken = small_run(tmp_path, 6, name="broken", checkpoint_freq=3)
    # Killed in its sixth iteration, while it wrote a line.
    shutil.rmtree(broken.folder.checkpoints / "000006")
    at_three = broken.folder.metrics()[2]["episodes_total"]
    assert len(broken.folder.episodes()) > at_three
    with (broken.path / "episodes.csv").open("a") as file:
        file.write("1,0.1,20")
    seen: list[int] = []

    class Look(poise.Callback):
        def on_run_start(self, trainer: Any) -> None:
            seen.extend([len(RunFolder(broken.path).episodes()), len(trainer.metrics.finished)])

    resumed = poise.resume(
        broken.path, stop={"training_iteration": 8}, callbacks=[Look()], quiet=True
    )
    resumed.trainer.close()
    assert seen == [at_three, at_three]
    keep = [(steps, reward, length) for steps, _, reward, length in resumed.folder.episodes()]
    assert keep == [
        (steps, reward, length) for steps, _, reward, length in straight.folder.episodes()
    ]
    text = (broken.path / "episodes.csv").read_text()
    assert text.count("steps") == 1
    assert len(text.splitlines()) == len(keep) + 1


def test_torn_lines_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.episodes() == []
    text = EPISODES_HEADER + "5,0.1,5.0,5\n9,0.2,4.011,0.3,2.0,2\n14,0.4,3.0,3\n20,0.5,6"
    folder.episodes_file.write_text(text)
    assert folder.episodes() == [(5, 0.1, 5.0, 5), (14, 0.4, 3.0, 3)]
    folder.episodes_file.write_text(f"{text}.0,60")  # of 6000, perhaps
    assert len(folder.episodes()) == 2
    folder.trim(0, 14)
    assert len(folder.episodes()) == 2  # what ended with the checkpoint's last step is part of it
    folder.trim(0, 13)
    assert folder.episodes_file.read_text() == EPISODES_HEADER + "5,0.100,5.0,5\n"


def test_a_full_disk_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder, "episode_lines", full)
    run = small_run(tmp_path, 4, quiet=False)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    assert len(warnings) == 1
    assert "No space left" in warnings[0]
    assert run.folder.status()["state"] == "finished"
    assert len(run.folder.metrics()) == 4
    assert run.folder.episodes() == []


# --- curves ---------------------------------------------------------------------------------------


def history(*episodes: Ended, name: str = "r", algorithm: str = "PPO", **settings: Any) -> History:
    return History(
        name,
        algorithm,
        {"env": "E", "seed": 0, "metrics_smoothing_episodes": 2, **settings},
        episodes,
    )


ONE = ((4, 0.5, 10.0, 4), (10, 1.0, 20.0, 6), (10, 1.5, 60.0, 5), (18, 3.0, 0.0, 8))


def drawn(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def test_the_mean_of_the_latest() -> None:
    assert trailing_mean(np.array([1.0, 2.0, 6.0, 10.0]), 2).tolist() == [1.0, 1.5, 4.0, 8.0]
    assert trailing_mean(np.array([1.0, 2.0, 6.0, 11.0]), 100).tolist() == [1.0, 1.5, 3.0, 5.0]


@pytest.mark.parametrize(
    ("x", "label", "at", "mean"),
    [  # two episodes ended at step 10: the mean there is that after the second
        ("steps", "environment steps", [4, 10, 10, 18], [(4, 10), (10, 40), (18, 30)]),
        ("episodes", "episodes", [1, 2, 3, 4], [(1, 10), (2, 15), (3, 40), (4, 30)]),
        ("time", "seconds", [0.5, 1.0, 1.5, 3.0], [(0.5, 10), (1.0, 15), (1.5, 40), (3.0, 30)]),
        ("timesteps_total", "environment steps", [4, 10, 10, 18], [(4, 10), (10, 40), (18, 30)]),
    ],
)
def test_one_run_is_drawn_as_its_episodes_and_their_mean(
    x: str, label: str, at: list, mean: list
) -> None:
    figure = episode_figure(panels([history(*ONE)], x, "return"))
    [axes] = figure.axes
    dots, line = axes.lines
    assert drawn(dots) == list(zip(at, [10, 20, 60, 0], strict=True))
    assert drawn(line) == mean
    assert (axes.get_xlabel(), axes.get_ylabel()) == (label, "return of an episode")
    assert axes.get_title() == "PPO on E"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "one episode",
        "mean of the last 2 episodes",
    ]


def test_return_and_length_are_one_panel_each_unless_one_is_chosen() -> None:
    above, below = episode_figure(panels([history(*ONE)])).axes
    assert [y for _, y in drawn(above.lines[0])] == [10, 20, 60, 0]
    assert [y for _, y in drawn(below.lines[0])] == [4, 6, 5, 8]
    assert below.get_ylabel() == "length of an episode"
    [only] = episode_figure(panels([history(*ONE)], y="length")).axes
    assert drawn(only.lines[1]) == [(4, 4), (10, 5.5), (18, 6.5)]
    assert only.get_xlabel() == "environment steps"


def test_a_picture_of_many_episodes_shows_some_of_them_and_the_mean_of_all() -> None:
    many = [(i, float(i), float(i % 2), 1) for i in range(1, 5002)]
    dots, line = episode_figure(panels([history(*many)], y="return")).axes[0].lines
    assert len(dots.get_xdata()) == 1667
    assert len(line.get_xdata()) == 5001
    assert drawn(line)[-1] == (5001, 0.5)


SEEDS = [
    history(
        (10, 1.0, 10.0, 1),
        (20, 2.0, 20.0, 1),
        (40, 4.0, 40.0, 1),
        seed=1,
        metrics_smoothing_episodes=1,
    ),
    history((10, 1.0, 30.0, 1), (30, 3.0, 10.0, 1), seed=2, metrics_smoothing_episodes=1),
]
"""The one climbs 1 a step until 40, the other falls 1 a step until 30."""


def test_seeds_are_drawn_as_their_mean_and_spread() -> None:
    [panel] = panels(SEEDS, y="return")
    [curve] = panel.curves
    assert curve.label == "PPO, 2 seeds"
    assert curve.x[[0, -1]].tolist() == [10, 30]  # where both are
    assert curve.low is not None
    assert curve.high is not None
    np.testing.assert_allclose(curve.y, 20.0)
    np.testing.assert_allclose(curve.high, np.maximum(curve.x, 40 - curve.x))
    np.testing.assert_allclose(curve.low, np.minimum(curve.x, 40 - curve.x))
    [axes] = episode_figure([panel]).axes
    first, second, mean = axes.lines
    assert drawn(first) == [(10, 10), (20, 20), (40, 40)]  # each whole
    assert drawn(second) == [(10, 30), (30, 10)]
    assert [y for _, y in drawn(mean)] == pytest.approx([20.0] * len(curve.x))
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (10, 30)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PPO, 2 seeds"]
    assert "lowest to highest seed" in axes.get_legend().get_title().get_text()


def test_seeds_against_episodes_and_seconds() -> None:
    [curve] = panels(SEEDS, "episodes", "return")[0].curves
    assert (curve.x[0], curve.x[-1]) == (1, 2)
    assert (curve.y[0], curve.y[-1]) == (20, 15)
    [curve] = panels(SEEDS, "time", "return")[0].curves
    assert (curve.x[0], curve.x[-1]) == (1, 3)
    np.testing.assert_allclose(curve.y, 20.0)


def labels(*histories: History) -> list[str]:
    return [curve.label for curve in panels(histories, y="return")[0].curves]


def test_runs_are_told_apart_by_what_differs() -> None:
    ppo, dqn = history(*ONE), history(*ONE, algorithm="DQN")
    assert labels(ppo, dqn) == ["PPO", "DQN"]
    assert labels(ppo, history(*ONE, env="F")) == ["E", "F"]
    assert labels(ppo, history(*ONE, env="F", algorithm="DQN")) == ["PPO on E", "DQN on F"]
    assert labels(*SEEDS, dqn) == ["PPO, 2 seeds", "DQN, 1 seed"]
    slow, fast = (
        history(*ONE, lr=0.1, model={"a": 1, "b": 2}),
        history(*ONE, lr=0.1, model={"a": 1, "b": 3}),
    )
    assert labels(slow, fast) == ["PPO, model.b=2", "PPO, model.b=3"]
    assert labels(history(*ONE, env_config={}), history(*ONE, env_config={"g": 9})) == [
        "PPO, env_config.g=None", "PPO, env_config.g=9",
    ]  # fmt: skip
    many = [history(*ONE, name=f"run{i}", a=i, b=i, c=i, d=i) for i in range(2)]
    assert labels(*many) == ["PPO, run0", "PPO, run1"]
    assert labels(history(*ONE), history(*ONE)) == ["PPO, 2 runs"]  # of one seed
    early = history(
        (1, 0.1, 1.0, 1), (3, 0.2, 1.0, 2), seed=3, name="early", metrics_smoothing_episodes=1
    )
    assert labels(SEEDS[0], early) == ["PPO, 2 seeds: r", "PPO, 2 seeds: early"]  # nowhere are both


def test_a_title_says_what_all_runs_share() -> None:
    ppo = history(*ONE)
    assert panels([ppo, history(*ONE, algorithm="DQN")])[0].title == "E"
    assert panels([ppo, history(*ONE, env="F")])[0].title == "PPO"
    assert panels([ppo, history(*ONE, env="F", algorithm="DQN")])[0].title == ""


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (
            "step",
            None,
            (
                "x='step' is not allowed: it must be one of 'steps', 'episodes', 'time'. "
                "Did you mean 'steps'?"
            ),
        ),
        (5, None, "x=5 is not allowed"),
        (
            "steps",
            "retrun",
            "y='retrun' is not allowed: it must be 'return' or 'length', or a key of the",
        ),
    ],
)
def test_an_unknown_axis_is_said_so(x: Any, y: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        panels([history(*ONE)], x, y)
    assert str(caught.value).startswith(words)


# --- poise.plot -----------------------------------------------------------------------------------


def saved(
    root: Path,
    name: str,
    episodes: Sequence[Ended],
    experiment: str = "exp",
    algorithm: str = "PPO",
    **settings: Any,
) -> RunFolder:
    """A run folder as a run would have left it."""
    folder = RunFolder(root / experiment / name)
    made = history(name=name, **settings)
    folder.write_config({"algorithm": algorithm, "config": made.settings})
    folder.episodes_file.write_text(EPISODES_HEADER + episode_lines(episodes))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs/exp` has two seeds and `runs/other` a run, where the test's commands are given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    for seed in SEEDS:
        number = seed.settings["seed"]
        saved(
            Path("runs"), f"seed{number}", seed.episodes, seed=number, metrics_smoothing_episodes=1
        )
    saved(Path("runs"), "single", ONE, "other", "DQN")
    return tmp_path / "runs"


def test_settings_that_cannot_be_do_not_hinder_a_plot(runs: Path) -> None:
    damaged = {"seed": {"a": [1]}, "metrics_smoothing_episodes": [8000]}
    for name in ("one", "two"):
        saved(Path("runs"), name, ONE, "damaged", **damaged)
    assert poise.plot("damaged", y="return").axes[0].lines


def test_plot_takes_names_experiments_and_several(runs: Path) -> None:
    assert len(poise.plot("single", y="return").axes[0].lines) == 2
    for what in (
        [runs / "exp"],
        ["exp"],
        ["seed1", "exp/seed2"],
        [Path("runs/exp/seed1"), "seed2"],
    ):
        [curve_label] = poise.plot(*what, y="return").axes[0].get_legend().get_texts()
        assert curve_label.get_text() == "PPO, 2 seeds"
    assert [run.path.name for run in find_runs("exp")] == ["seed1", "seed2"]
    with pytest.raises(ConfigError, match="nothing named"):
        poise.plot()
    with pytest.raises(RunError, match="Did you mean 'seed2'"):
        poise.plot("seed22")


def test_live_plots_need_a_notebook_and_one_trainer(runs: Path, trainer: Any) -> None:
    algo = trainer("PPO", "CartPole-v1", num_envs_per_worker=4, rollout_fragment_length=64)
    with pytest.warns(
        UserWarning, match="Live plots need a notebook; here, training goes on without one"
    ):
        assert poise.plot(algo, live=True) is None
    algo.learn(total_timesteps=1)
    with pytest.raises(ConfigError, match="x='stepz' is not allowed"):
        poise.plot(algo, x="stepz", live=True)
    for wrong in (("single",), (algo, algo), ()):
        with pytest.raises(ConfigError, match="live=True follows one trainer"):
            poise.plot(*wrong, live=True)


# --- poise plot -----------------------------------------------------------------------------------


def call(*args: str) -> Result:
    return CliRunner().invoke(command, ["plot", *args], prog_name="poise")


def good(*args: str) -> str:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*args: str) -> str:
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_the_command_says_where_the_picture_is(runs: Path) -> None:
    for args, where in (
        (["single"], "runs/other/single/plots/episodes.png"),
        (["single", "--y", "length", "--x", "time"], "runs/other/single/plots/length.png"),
        (["exp"], "episodes.png"),
        (["exp", "single", "--out", "all/mine.png"], "all/mine.png"),
        (["single", "single"], "runs/other/single/plots/episodes.png"),
    ):
        assert good(*args) == f"{where}\n"
        assert Path(where).read_bytes().startswith(b"\x89PNG")
    good("exp", "--out", "a.svg")
    assert "<svg" in Path("a.svg").read_text()
    good("exp", "--out", "a.pdf")
    assert Path("a.pdf").read_bytes().startswith(b"%PDF")


def test_the_terminal_shows_the_curves(runs: Path) -> None:
    text = good("exp", "single", "--terminal", "--y", "return")
    assert list(Path().rglob("*.png")) == []
    lines = text.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0] == "E"
    assert lines[1].startswith("return of an episode")
    assert [line.split("|")[0].strip() for line in lines[2:14]] == ["40", *[""] * 10, "10"]
    assert lines[14].split()[0] == "4"
    assert lines[14].rstrip().endswith("30 environment steps")
    assert "PPO, 2 seeds" in text
    assert "DQN, 1 seed" in text
    good("exp", "--terminal", "--out", "a.png")
    assert Path("a.png").exists()


def test_dots_in_the_terminal_are_where_the_curve_is(runs: Path) -> None:
    rising = [(i, float(i), float(i), 1) for i in range(1, 101)]
    saved(Path("runs"), "rising", rising, metrics_smoothing_episodes=1)
    rows = [
        line.split("|")[1]
        for line in good("rising", "--terminal", "--y", "return").splitlines()[2:14]
    ]
    inked = [[i for i, cell in enumerate(row) if cell not in " \u2800"] for row in rows]
    assert all(inked)
    middles = [np.mean(columns) for columns in inked]
    assert middles == sorted(middles, reverse=True)  # from the upper right to the lower left
    assert inked[0][-1] == max(map(max, inked))
    assert inked[-1][0] == 0


def test_a_running_run_is_drawn_as_far_as_it_is(runs: Path) -> None:
    folder = RunFolder(runs / "other" / "single")
    folder.claim()
    try:
        folder.write_status("running")
        with folder.episodes_file.open("a") as file:
            file.write("30,5.0,70")  # in the middle of a line
        good("single")
        [axes] = poise.plot(folder.path, y="return").axes
        assert len(axes.lines[0].get_xdata()) == 4
    finally:
        folder.release()


def test_runs_without_an_episode_are_left_out(runs: Path) -> None:
    empty = saved(Path("runs"), "young", (), "other")
    result = call("single", "young")
    assert result.exit_code == 0
    assert result.stderr == "Left out, for no episode has ended yet: young.\n"
    assert "no episode has ended" in bad("young")
    empty.episodes_file.unlink()
    assert "no episode has ended" in bad("young")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["singel"],
            "There is no run at singel, nor one of this name in runs. Did you mean 'single'?",
        ),
        (["single", "othr"], "Did you mean 'other'?"),
        (["runs/exq"], "Did you mean"),
        (["single", "--x", "epsiodes"], "Did you mean 'episodes'?"),
        (["single", "--y", "returns"], "Did you mean 'return'?"),
        (["single", "--out", "x.xyz"], "must end in .png, .pdf or .svg"),
        (["single", "--out", "/dev/null/x.png"], "cannot be written"),
        ([], "RUN"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(runs: Path, args: list[str], words: str) -> None:
    assert words in bad(*args)
    assert list(Path().rglob("*.png")) == []


def test_without_matplotlib_the_extra_is_named_and_terminals_still_draw(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert install("plot") in bad("single")
    assert "mean of the last" in good("single", "--terminal")
    with pytest.raises(PoiseError, match="Plots need matplotlib"):
        small_run(runs, 1, plot=True)  # before it trains


def test_drawing_needs_neither_torch_nor_unicode(runs: Path) -> None:
    script = (
        "import sys; from poise.cli.main import poise; poise(['plot', 'exp', '--terminal', "
        "'--out', 'a.png'], "
    )
    script += (
        "standalone_mode=False); print(json.dumps([n for n in ('torch', "
        "'gymnasium') if n in sys.modules]))"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", f"import json; {script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert "***" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


# --- results, and bands ---------------------------------------------------------------------------


def with_results(seed: int, *values: float) -> History:
    results = [
        {
            "timesteps_total": 10 * (i + 1),
            "episodes_total": i,
            "time_total_s": i / 2,
            "learner/kl": value,
        }
        for i, value in enumerate(values)
    ]
    settings = {"env": "CartPole-v1", "seed": seed}
    return History(
        f"r{seed}", "PPO", settings, [(10, 0.5, 1.0, 3), (30, 1.5, 2.0, 3)], results=lambda: results
    )


@pytest.mark.parametrize(
    ("x", "across"), [("steps", [10, 30, 40]), ("episodes", [0, 2, 3]), ("time", [0, 1, 1.5])]
)
def test_any_key_of_the_results_is_drawn_as_it_is(x: str, across: list[float]) -> None:
    [panel] = panels([with_results(1, 0.1, float("nan"), 0.3, 0.2)], x, "learner/kl")
    [curve] = panel.curves
    assert (panel.y_label, panel.window, panel.explanation) == (
        "learner/kl",
        None,
        "of each iteration",
    )
    assert (curve.x.tolist(), curve.y.tolist()) == (across, [0.1, 0.3, 0.2])


def test_several_axes_are_several_panels() -> None:
    drawn = panels([with_results(1, 0.1, 0.2)], y=["return", "learner/kl"])
    assert [panel.y_label for panel in drawn] == ["return of an episode", "learner/kl"]
    assert [axes.get_ylabel() for axes in episode_figure(drawn).axes] == [
        "return of an episode",
        "learner/kl",
    ]


@pytest.mark.parametrize(("band", "half"), [("sem", 1 / 3**0.5), ("ci", 4.303 / 3**0.5)])
def test_bands_of_the_mean_over_seeds(band: str, half: float) -> None:
    """Three runs at 1, 2 and 3: the mean is 2, the deviation 1."""
    runs = [with_results(seed, seed, seed) for seed in (1, 2, 3)]
    [curve] = panels(runs, y="learner/kl", band=band)[0].curves
    assert curve.y == pytest.approx(2)
    assert curve.low == pytest.approx(2 - half)
    assert curve.high == pytest.approx(2 + half)
    [curve] = panels(runs, y="learner/kl")[0].curves
    assert (curve.low.max(), curve.high.min()) == (1, 3)  # type: ignore[union-attr]


def test_students_quantiles_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert pytest.approx([stats.t.ppf(0.975, n) for n in range(1, 31)], abs=5e-4) == STUDENT_T


def test_a_key_that_results_have_not_gets_the_nearest_and_one_without_values_says_so() -> None:
    with pytest.raises(
        ConfigError, match=r"y='learner/kll' is not allowed.* Did you mean 'learner/kl'"
    ):
        panels([with_results(1, 0.1)], y="learner/kll")
    with pytest.raises(PoiseError, match="learner/kl has had no value yet"):
        panels([with_results(1, float("nan"))], y="learner/kl")
    with pytest.raises(ConfigError, match="band='std' is not allowed"):
        panels([with_results(1, 0.1)], band="std")


def test_the_command_draws_them_into_one_file(run: Run, tmp_path: Path) -> None:
    keys = [part for key in ("return", "length", "learner/kl") for part in ("--y", key)]
    out = tmp_path / "four.svg"
    result = CliRunner().invoke(
        command, ["plot", str(run.path), *keys, "--band", "ci", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 5000
