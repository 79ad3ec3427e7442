"""Optuna's part: it proposes settings, prunes, and keeps a database that its dashboard opens.

The trials' own files are the truth: a search that is taken up again makes the database anew from
them.
"""

from __future__ import annotations

import importlib.util
import math
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poise.errors import PoiseError, shown
from poise.install import install
from poise.tuning.search import Search
from poise.tuning.space import Fixed, Primitive, sample

if TYPE_CHECKING:
    import optuna

    from poise.tuning.study import Trial

FILE = "study.db"
"""Optuna's database, for its dashboard."""


def optuna_module() -> Any:
    """Optuna, without its own log lines.

    Raises:
        PoiseError: it is not installed; the sentence says how to.
    """
    try:
        with warnings.catch_warnings():
            # Its progress bars, which are not used, look for an extension of notebooks.
            warnings.filterwarnings("ignore", message=".*IProgress not found.*")
            import optuna
    except ImportError:
        raise PoiseError(f"Searches need Optuna: {install('tune')}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_installed(search: Search) -> None:
    """Looks for what a search needs before anything is written.

    Raises:
        PoiseError: something is missing; the sentence says how to install it.
    """
    optuna_module()
    for name in {"gp": ["scipy"], "cmaes": ["cmaes"], "qmc": ["scipy"]}.get(search.sampler, []):
        if importlib.util.find_spec(name) is None:
            raise PoiseError(f"sampler={search.sampler!r} needs {name}: {install('tune')}")


class Storage:
    """One study of Optuna's, in memory, with a copy of each trial that has ended in a database.

    The database is only ever written: one that is there is replaced without being opened, for
    Optuna may run what it finds in one (CMA-ES keeps its optimiser as a pickle).

    Args:
        search: names its sampler, its pruner and its direction.
        folder: where the database is.
        trials: those that there are already; they are played again, and proposals go on from there.
    """

    def __init__(self, search: Search, folder: Path, trials: Sequence[Trial] = ()) -> None:
        self.search, self.file = search, folder / FILE
        self.optuna = optuna_module()
        about: dict[str, Any] = {"study_name": folder.name, "direction": f"{search.mode}imize"}
        self.study = self.optuna.create_study(
            sampler=_sampler(self.optuna, search, len(trials)),
            pruner=_pruner(self.optuna, search.scheduler),
            **about,
        )
        self.copy: optuna.Study | None = None
        with self._copying():
            for old in folder.glob(f"{FILE}*"):
                old.unlink()  # its journal, too: SQLite would play that into the new one
            self.copy = self.optuna.create_study(storage=self._database(folder), **about)
        for trial in trials:
            self._replay(trial)

    def _database(self, folder: Path) -> Any:
        """A new database, by its path: in an address, some characters have a meaning."""
        from sqlalchemy.pool import NullPool

        folder.mkdir(parents=True, exist_ok=True)
        connect = partial(sqlite3.connect, self.file, check_same_thread=False)
        engine = {"creator": connect, "poolclass": NullPool}
        return self.optuna.storages.RDBStorage("sqlite://", engine)

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """Around what writes the database: where it fails, the search does without."""
        try:
            yield
        except Exception as error:
            self.copy = None
            reason = str(error.__cause__ or error).partition("\n")[0]
            what = f"{self.file} cannot be written ({reason}): the search goes on without it."
            print(shown(what), file=sys.stderr)

    def _replay(self, trial: Trial) -> None:
        """Has Optuna see a trial as it went: its sampler and its pruner learn from it again."""
        proposed = self.ask(trial.params)
        if self.search.sampler == "cmaes":
            _ = proposed.relative_params  # its state is told by asking
        if trial.state != "failed":  # whose settings may have failed before all were proposed
            sample(self.search.config, proposed)
        for percent, value in trial.reports:
            proposed.report(value, percent)
            proposed.should_prune()
        if trial.state != "running":
            self.tell(trial)

    def ask(self, point: Mapping[str, Primitive]) -> optuna.Trial:
        """A trial at a point of the grid, which proposes the rest when that is asked for."""
        self.study.enqueue_trial(dict(point))
        asked: optuna.Trial = self.study.ask()
        return asked

    def prune(self, trial: Trial, percent: int, value: float) -> bool:
        """Takes a value that a trial has on its way; returns whether it falls behind others."""
        known = self.study.get_trials(deepcopy=False)[trial.number]
        theirs = self.optuna.trial.Trial(self.study, known._trial_id)
        theirs.report(value, percent)
        trial.reports.append((percent, value))
        return bool(theirs.should_prune())

    def tell(self, trial: Trial) -> None:
        """Tells Optuna how a trial ended."""
        state, value = self._outcome(trial)
        ended = self.study.tell(trial.number, value, state)
        if self.copy is not None:
            with self._copying():
                made = self.optuna.trial.create_trial(
                    state=state,
                    value=value,
                    params=ended.params,
                    distributions=ended.distributions,
                    intermediate_values=ended.intermediate_values,
                    user_attrs={"trial": trial.number},
                )
                self.copy.add_trial(made)

    def _outcome(self, trial: Trial) -> tuple[Any, float | None]:
        """A trial's state and value as Optuna has them; NaN is no value to it, infinity is one."""
        names = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        value = trial.value(self.search) if trial.state == "finished" else math.nan
        name = "FAIL" if trial.state == "finished" and math.isnan(value) else names[trial.state]
        return self.optuna.trial.TrialState[name], None if math.isnan(value) else value


class Settled(Storage):
    """Stands in for Optuna where nothing is left to propose: every trial is a point of the grid."""

    def __init__(self) -> None:
        pass

    def ask(self, point: Mapping[str, Primitive]) -> Any:
        return Fixed(point)

    def tell(self, trial: Trial) -> None:
        pass


def _sampler(optuna: Any, search: Search, begun: int) -> Any:
    """Who proposes settings; after `begun` trials with another seed, so that none comes again."""
    made = optuna.samplers
    # It calls experimental what has been there for years.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    seed = search.seed
    if begun:
        seed = int(np.random.SeedSequence([search.seed, begun]).generate_state(1)[0])
    if search.sampler == "qmc":
        return made.QMCSampler(seed=search.seed, scramble=True)
    kinds = {
        "tpe": made.TPESampler,
        "random": made.RandomSampler,
        "gp": made.GPSampler,
        "cmaes": made.CmaEsSampler,
    }
    return kinds[search.sampler](seed=seed)


def _pruner(optuna: Any, name: str) -> Any:
    """Who ends trials early; its steps are per cent of a trial's limit."""
    made, least = optuna.pruners, {"min_resource": 4, "reduction_factor": 3}
    if name == "asha":
        return made.SuccessiveHalvingPruner(**least)
    if name == "hyperband":
        return made.HyperbandPruner(max_resource=100, **least)
    return made.MedianPruner(n_warmup_steps=10) if name == "median" else made.NopPruner()
