"""Guards the view in notebooks.

One display that is updated in place, whose last state is the run's last.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import poise
from poise.checks.report import Finding, Report
from poise.tracking import live
from poise.tracking.progress import Progress, fraction_done, line, where
from poise.training.trainer import Trainer

interactiveshell = pytest.importorskip("IPython.core.interactiveshell")

Make = Callable[..., Trainer]

TINY = "preset=None, seed=0, num_envs_per_worker=2, rollout_fragment_length=16, num_sgd_iter=1"


# The name of the shell of Jupyter's kernels.
class ZMQInteractiveShell(interactiveshell.InteractiveShell):
    """A shell that collects what it displays, as Jupyter's kernel would send it to the browser."""


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A notebook's shell in this process; `shell.shown` are the calls of its publisher."""
    interactiveshell.InteractiveShell.clear_instance()
    made = ZMQInteractiveShell.instance()
    made.history_manager.enabled = False
    made.shown = []

    def publish(
        data: dict[str, Any], *_: Any, transient: Any = None, update: bool = False, **rest: Any
    ) -> None:
        made.shown.append((update, (transient or {}).get("display_id"), data))

    monkeypatch.setattr(made.display_pub, "publish", publish)
    try:
        yield made
    finally:
        ZMQInteractiveShell.clear_instance()


def run_cell(shell: Any, code: str) -> Any:
    """Runs a cell and returns its last value."""
    done = shell.run_cell(code)
    done.raise_error()
    return done.result


def test_where_it_runs(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert where() == "notebook"
    assert Progress()._kind == "notebook"
    assert Progress(plain=True)._kind == "lines"
    ZMQInteractiveShell.clear_instance()
    assert where() == "lines"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert where() == "terminal"


def test_cells_train_film_and_plot(shell: Any, tmp_path: Any) -> None:
    run_cell(shell, "import poise")
    run_cell(shell, f"algo = poise.PPO('CartPole-v1', {TINY})")
    assert shell.shown == []
    result = run_cell(shell, "algo.learn(stop={'training_iteration': 30})")
    algo = shell.user_ns["algo"]
    assert result["training_iteration"] == 30
    identities = {identity for _, identity, _ in shell.shown}
    assert len(identities) == 1  # one display, updated in place
    assert identities != {None}
    assert [update for update, _, _ in shell.shown] == [False] + [True] * (len(shell.shown) - 1)
    assert 2 <= len(shell.shown) <= 32
    last = shell.shown[-1][2]["text/html"]
    assert line(algo.history[-1]) in last
    assert "<progress" in last
    run_cell(shell, f"poise.record(algo, {str(tmp_path / 'a.mp4')!r})")
    film = run_cell(shell, f"poise.render_mp4({str(tmp_path / 'a.mp4')!r})")
    formatted, _ = shell.display_formatter.format(film)
    assert formatted["text/html"].startswith("<video")
    figure = run_cell(shell, "poise.plot(algo)")
    assert type(figure).__name__ == "EpisodeFigure"  # which Jupyter draws


def pictures(shell: Any) -> list[tuple[bool, str]]:
    """Whether each picture that was shown replaced one, and where."""
    return [(update, identity) for update, identity, data in shell.shown if "image/png" in data]


def test_a_live_plot_is_drawn_anew_in_its_place(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Clock(poise.Callback):
        def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
            now[0] += 0.3

    run_cell(shell, f"import poise; algo = poise.PPO('CartPole-v1', {TINY.replace('=16', '=128')})")
    shell.user_ns["algo"].callbacks.append(Clock())
    assert run_cell(shell, "poise.plot(algo, x='episodes', live=True)") is None
    run_cell(shell, "poise.plot(algo, x='time', live=True)")  # as where a cell is run again
    assert sum(isinstance(c, poise.LivePlot) for c in shell.user_ns["algo"].callbacks) == 1
    run_cell(shell, "algo.learn(stop={'training_iteration': 9})")
    shown = pictures(shell)
    # After 0.3, 1.5 and 2.7 s, and at the end.
    assert [update for update, _ in shown] == [False, True, True, True]
    assert len({identity for _, identity in shown}) == 1
    run_cell(shell, "algo.learn(stop={'training_iteration': 10})")
    assert [update for update, _ in pictures(shell)[4:]] == [False, True]  # below its own cell


def test_a_live_plot_that_takes_long_is_drawn_less_often(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(*_: Any) -> str:
        now[0] += 1.0
        return "a picture"

    monkeypatch.setattr(live, "episode_figure", slow)
    plot = poise.LivePlot()
    trainer: Any = SimpleNamespace(metrics=SimpleNamespace(finished=[1]))
    monkeypatch.setattr(live.History, "of_trainer", lambda trainer: None)
    monkeypatch.setattr(live, "panels", lambda *_: None)
    for _ in range(20):
        plot.on_iteration(trainer, {})
        now[0] += 1.0
    assert len(shell.shown) == 2  # a tenth of the time


def test_a_second_run_has_a_display_of_its_own(shell: Any) -> None:
    run_cell(shell, f"import poise; algo = poise.PPO('CartPole-v1', {TINY})")
    run_cell(shell, "algo.learn(stop={'training_iteration': 1})")
    run_cell(shell, "algo.learn(stop={'training_iteration': 2})")
    assert len({identity for _, identity, _ in shell.shown}) == 2


def test_an_interrupted_cell_shows_where_it_stopped(shell: Any) -> None:
    run_cell(shell, f"import os, signal, poise; algo = poise.PPO('CartPole-v1', {TINY})")
    run_cell(
        shell,
        "class Press(poise.Callback):\n"
        "    def on_iteration(self, trainer, result):\n"
        "        if trainer.iteration == 3:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "algo.callbacks.append(Press())",
    )
    result = run_cell(shell, "algo.learn(stop={'training_iteration': 99})")
    assert result["stop_reason"] == "interrupted"
    assert line(shell.user_ns["algo"].history[-1]) in shell.shown[-1][2]["text/html"]


def test_the_bar_goes_by_the_nearest_goal() -> None:
    assert (
        fraction_done(
            {"timesteps_total": 100, "time_total_s": 10}, {"timesteps_total": 30, "time_total_s": 5}
        )
        == 0.5
    )
    goals = {"timesteps_total": 100, "time_total_s": 10}
    assert fraction_done(goals, {"timesteps_total": 30, "time_total_s": 5}) == 0.5
    assert fraction_done({"episode_reward_mean": 10}, {"episode_reward_mean": float("nan")}) == 0
    assert fraction_done({"episode_reward_mean": -100}, {"episode_reward_mean": -200}) == 0
    assert fraction_done({"a": 1}, {"a": 5}) == 1
    assert fraction_done({}, {"a": 5}) == 0


def test_plain_lines_say_why_there_is_no_reward_yet(trainer: Make) -> None:
    from environments import Scripted

    said: list[str] = []
    algo = trainer(
        "PPO",
        lambda config: Scripted(lengths=(1000,)),
        preset=None,
        num_envs_per_worker=2,
        num_sgd_iter=1,
    )
    algo.callbacks.append(Progress(say=said.append, plain=True))
    algo.learn(stop={"training_iteration": 2})
    assert said
    assert all("no episode has ended yet" in text for text in said)
    assert "512 steps" in said[-1]


def test_what_a_cell_shows_of_its_value(shell: Any) -> None:
    run_cell(shell, f"import poise; algo = poise.PPO('CartPole-v1', {TINY})")
    run_cell(shell, "_ = algo.learn(stop={'training_iteration': 20})")
    algo = run_cell(shell, "algo")
    shown = shell.display_formatter.format(algo)[0]["text/plain"]
    steps, reward = algo.algorithm.timesteps, algo.history[-1]["episode_reward_mean"]
    assert shown == f"<PPO on CartPole-v1: 20 iterations, {steps:,} steps, reward {reward:.1f}>"
    report = Report("mine:Env", [Finding("error", "make", "It cannot be made.")])
    assert shell.display_formatter.format(report)[0]["text/plain"] == str(report)
    assert "It cannot be made." in str(report)


def test_a_mistake_in_a_cell_is_its_line_and_one_sentence(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("import poise\npoise.PPO('CartPole-v1', lrr=3)")
    shown = "".join(capsys.readouterr()) + "".join(str(data) for _, _, data in shell.shown)
    assert "ConfigError: Unknown config key 'lrr'. Did you mean 'lr'?" in shown
    assert "poise.PPO('CartPole-v1', lrr=3)" in shown
    assert len(shown.splitlines()) <= 4, shown


KERNEL = """
import sys, types, warnings
for name in ("ipykernel", "ipykernel.zmqshell"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["ipywidgets"] = None
import IPython
warnings.simplefilter("error")
warnings.filterwarnings("default", module="(?!poise|tqdm).*")
import poise
with poise.PPO("CartPole-v1", preset=None, seed=0, num_sgd_iter=1) as algo:
    algo.train()
from poise.tuning.storage import optuna_module
optuna_module()
assert "tqdm" in sys.modules
"""


def test_a_kernel_without_ipywidgets_is_not_warned() -> None:
    """tqdm, which Optuna imports, warns there in red."""
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "IProgress" not in done.stderr
