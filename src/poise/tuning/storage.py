"""Optuna's part: it proposes settings, prunes, and keeps a database that its dashboard opens.

The trials' own files are the truth. Where the database is missing, or knows less than they do, it is made anew.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poise.errors import PoiseError
from poise.tuning.search import Search
from poise.tuning.space import Primitive, sample

if TYPE_CHECKING:
    import optuna

    from poise.tuning.study import Trial

FILE = "study.db"


def optuna_module() -> Any:
    """Optuna, without its own log lines.

    Raises:
        PoiseError: it is not installed; the sentence says how to.
    """
    try:
        with warnings.catch_warnings():  # its progress bars, which are not used, look for an extension of notebooks
            warnings.filterwarnings("ignore", message=".*IProgress not found.*")
            import optuna
    except ImportError:
        raise PoiseError('Searches need Optuna: pip install "poise[tune]".') from None
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
            raise PoiseError(f'sampler={search.sampler!r} needs {name}: pip install "poise[tune]".')


class Storage:
    """One study in Optuna's own database.

    Args:
        search: names its sampler, its pruner and its direction.
        folder: where the database is.
        begun: trials that there are already: proposals go on from there, and do not begin again.
    """

    def __init__(self, search: Search, folder: Path, begun: int = 0) -> None:
        self.search, self.file, self.begun = search, folder / FILE, begun
        self.optuna = optuna_module()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.study = self._open()
        except Exception:  # whatever a damaged database makes of it: the trials have all that it had
            self.file.unlink(missing_ok=True)
            self.study = self._open()

    def _open(self) -> optuna.Study:
        opened: optuna.Study = self.optuna.create_study(
            storage=f"sqlite:///{self.file}",
            study_name=self.file.parent.name,
            direction={"max": "maximize", "min": "minimize"}[self.search.mode],
            sampler=_sampler(self.optuna, self.search, self.begun),
            pruner=_pruner(self.optuna, self.search.scheduler),
            load_if_exists=True,
        )
        return opened

    def agree(self, trials: Sequence[Trial]) -> None:
        """Makes the database anew from the trials, unless it knows them."""
        known = self.study.get_trials(deepcopy=False)
        steady = self.search.scheduler != "pbt"  # whose members change

        def equal(theirs: Any, ours: Trial) -> bool:
            known = not steady or ours.state == "failed" or theirs.params == ours.params
            return bool(known and theirs.state.is_finished() == (ours.state != "running"))

        same = len(known) == len(trials) and all(map(equal, known, trials))
        if same:
            return
        ahead = known[len(trials) :]  # proposed, but killed before they were written down
        self.optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)
        self.study = self._open()
        for trial in trials:
            state, value = self._outcome(trial)
            about = fixed(trial.params)
            if trial.state != "failed":  # whose settings may have failed before all were proposed
                sample(self.search.config, about)
            params = {name: trial.params[name] for name in about.distributions}
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=state, value=value, params=params, distributions=about.distributions
                )
            )
        for proposed in ahead:
            self.study.enqueue_trial({**proposed.system_attrs.get("fixed_params", {}), **proposed.params})

    def ask(self, point: dict[str, Primitive]) -> optuna.Trial:
        """A trial at a point of the grid; what the grid leaves open is proposed when it is asked for."""
        waiting = (self.optuna.trial.TrialState.WAITING,)
        if not self.study.get_trials(deepcopy=False, states=waiting):
            self.study.enqueue_trial(point)
        return self.study.ask()

    def prune(self, trial: Trial, value: float) -> bool:
        """Takes a value that a trial has on its way; whether it falls behind the others."""
        theirs = self.optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[trial.number]._trial_id)
        theirs.report(value, trial.percent)
        return bool(theirs.should_prune())

    def tell(self, trial: Trial) -> None:
        """How a trial ended."""
        state, value = self._outcome(trial)
        self.study.tell(trial.number, value, state)

    def _outcome(self, trial: Trial) -> tuple[Any, float | None]:
        """A trial's state and value as Optuna has them: numbers, which infinite ones are, but not NaN."""
        names = {"running": "RUNNING", "finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        value = trial.value(self.search) if trial.state == "finished" else math.nan
        name = "FAIL" if trial.state == "finished" and math.isnan(value) else names[trial.state]
        return self.optuna.trial.TrialState[name], None if math.isnan(value) else value


def fixed(params: dict[str, Primitive]) -> Any:
    """What suggests what was proposed before."""
    return optuna_module().trial.FixedTrial(params)


def _sampler(optuna: Any, search: Search, begun: int) -> Any:
    made = optuna.samplers
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of what has been there for years
    seed = search.seed if not begun else int(np.random.SeedSequence([search.seed, begun]).generate_state(1)[0])
    return {
        "tpe": lambda: made.TPESampler(seed=seed),
        "random": lambda: made.RandomSampler(seed=seed),
        "gp": lambda: made.GPSampler(seed=seed),
        "cmaes": lambda: made.CmaEsSampler(seed=seed),
        "qmc": lambda: made.QMCSampler(seed=search.seed, scramble=True),
    }[search.sampler]()


def _pruner(optuna: Any, name: str) -> Any:
    """Steps are per cent of a trial's limit."""
    made = optuna.pruners
    return {
        "none": made.NopPruner,
        "pbt": made.NopPruner,
        "asha": lambda: made.SuccessiveHalvingPruner(min_resource=4, reduction_factor=3),
        "hyperband": lambda: made.HyperbandPruner(min_resource=4, max_resource=100, reduction_factor=3),
        "median": lambda: made.MedianPruner(n_warmup_steps=10),
    }[name]()
