"""Tune's schedulers and searchers, as what Poise's searches have in their place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from poise.errors import PoiseWarning, nearest
from poise.tuning.space import Choice, Number, choice, is_search

OWN_RULE = {
    "grace_period", "reduction_factor", "brackets", "min_samples_required", "hard_stop",
    "stop_last_trials", "quantile_fraction", "resample_probability",
    "perturbation_factors", "burn_in_period", "synch", "log_config", "require_attrs",
    "min_time_slice", "points_to_evaluate", "seed", "n_initial_points", "random_state_seed",
    "sampler", "random_search_steps", "utility_kwargs", "gamma", "max_early", "bracket",
    "parameter_constraints", "outcome_constraints", "optimizer", "budget", "study_name", "storage",
}  # fmt: skip
"""Arguments about how a scheduler or a searcher goes about it, for which Poise's have their own."""
DRAWN = 16
"""Values that stand for a function of a population's mutations."""


def _said(kind: str, rest: Mapping[str, Any]) -> None:
    """Says which arguments are left out."""
    for key in rest:
        if key not in OWN_RULE:
            raise TypeError(f"{kind} has no argument {key!r}.{nearest(key, OWN_RULE)}")
    if rest:
        listed = ", ".join(f"{key}={value!r}" for key, value in rest.items())
        text = f"{kind}: {listed} is left out: Poise's has numbers of its own (docs/tuning.md)."
        warnings.warn(text, PoiseWarning, stacklevel=3)


class FIFOScheduler:
    """Lets every trial come to its end.

    Attributes:
        name: Poise's scheduler.
        metric, mode: by which trials are compared.
        limit: the result, by its key, at which a trial ends at the latest.
        mutations: searches of a population.
        interval: how much of the limit's result a population does between two comparisons.
    """

    name: ClassVar[str] = "none"
    max_t: ClassVar[int | None] = None

    def __init__(
        self, time_attr: str = "training_iteration", metric: str | None = None,
        mode: str | None = None, max_t: int | None = None, perturbation_interval: float | None =
        None, hyperparam_mutations: Mapping[str, Any] | None = None, reward_attr: str | None = None,
        custom_explore_fn: Any = None, **rest: Any,
    ) -> None:  # fmt: skip
        self.metric, self.mode = metric or reward_attr, mode
        steps = max_t or self.max_t
        self.time_attr = time_attr
        self.limit = {time_attr: steps} if steps else {}
        self.interval, self.mutations = perturbation_interval, dict(hyperparam_mutations or {})
        self.custom = custom_explore_fn
        _said(type(self).__name__, rest)

    def explored(self, config: Mapping[str, Any], random: Any) -> dict[str, Any]:
        """The settings of a member of a population, changed a little.

        One in four is drawn anew; of the others, numbers become 0.8 or 1.2 times as much, and
        values of a list the ones beside them.
        """
        made = _changed(config, self.mutations, random)
        return dict(self.custom(made)) if self.custom else made

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Nothing is to be set."""
        return True


class AsyncHyperBandScheduler(FIFOScheduler):
    """Ends trials that fall behind at once: successive halving."""

    name = "asha"
    max_t = 100


class HyperBandScheduler(FIFOScheduler):
    """The same in brackets."""

    name = "hyperband"
    max_t = 81


class MedianStoppingRule(FIFOScheduler):
    """Ends trials that are worse than the median."""

    name = "median"


class PopulationBasedTraining(FIFOScheduler):
    """Lets the worst go on from where the best are."""

    name = "pbt"


ASHAScheduler, HyperBandForBOHB = AsyncHyperBandScheduler, HyperBandScheduler


class OptunaSearch:
    """Optuna's tree of Parzen estimators.

    Attributes:
        sampler: Poise's.
        metric, mode: by which trials are compared.
        space: what is searched, where it is not in the configuration.
        parallel: trials at a time.
    """

    sampler: ClassVar[str] = "tpe"
    instead: ClassVar[str] = ""

    def __init__(
        self, space: Any = None, metric: str | None = None, mode: str | None = None,
        max_concurrent: int | None = None, **rest: Any,
    ) -> None:  # fmt: skip
        self.space = dict(space) if isinstance(space, Mapping) else {}
        if space is not None and not all(is_search(each) for each in self.space.values()):
            raise TypeError(
                f"{type(self).__name__}: space is not allowed in another library's words: give "
                "tune.uniform and others, in config."
            )
        self.metric, self.mode, self.parallel = metric, mode, max_concurrent or None
        _said(type(self).__name__, rest)
        if self.instead:
            text = f"{type(self).__name__} becomes {self.instead}."
            warnings.warn(text, PoiseWarning, stacklevel=2)


class HyperOptSearch(OptunaSearch):
    """The same by another library."""


class BasicVariantGenerator(OptunaSearch):
    """Draws at random."""

    sampler = "random"


class BayesOptSearch(OptunaSearch):
    """Gaussian processes, by Optuna."""

    sampler = "gp"
    instead = "Optuna's Gaussian processes (sampler='gp')"


class TuneBOHB(OptunaSearch):
    """Parzen estimators, by Optuna."""

    instead = "Optuna's Parzen estimators (sampler='tpe')"


class NevergradSearch(OptunaSearch):
    """CMA-ES, by Optuna."""

    sampler = "cmaes"
    instead = "Optuna's CMA-ES (sampler='cmaes')"


AxSearch = HEBOSearch = BayesOptSearch
SEARCHERS = {
    "random": BasicVariantGenerator, "variant_generator": BasicVariantGenerator, "optuna":
    OptunaSearch, "hyperopt": HyperOptSearch, "bayesopt": BayesOptSearch, "bohb": TuneBOHB,
    "ax": AxSearch, "hebo": HEBOSearch, "nevergrad": NevergradSearch, "tpe": OptunaSearch,
}  # fmt: skip
SCHEDULERS = {
    "fifo": FIFOScheduler, "none": FIFOScheduler, "asha": ASHAScheduler, "async_hyperband":
    ASHAScheduler, "asynchyperband": ASHAScheduler, "hyperband": HyperBandScheduler, "median":
    MedianStoppingRule, "median_stopping_rule": MedianStoppingRule, "medianstopping":
    MedianStoppingRule, "pbt": PopulationBasedTraining,
}  # fmt: skip


class ConcurrencyLimiter:
    """So many trials of a searcher at a time."""

    def __init__(self, searcher: Any, max_concurrent: int, *_: Any, **__: Any) -> None:
        self.searcher, self.parallel = searcher, max_concurrent

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "searcher":
            raise AttributeError(name)
        return getattr(self.searcher, name)


def _changed(
    config: Mapping[str, Any], mutations: Mapping[str, Any], random: Any
) -> dict[str, Any]:
    made = dict(config)
    for key, given in mutations.items():
        old = made.get(key)
        if isinstance(given, Mapping):
            made[key] = _changed(old or {}, given, random)
            continue
        options = given.options if isinstance(given, Choice) else given
        if isinstance(options, (list, tuple)):
            at = options.index(old) + random.choice([-1, 1]) if old in options else 0
            near = options[min(max(at, 0), len(options) - 1)]
            made[key] = options[random.integers(len(options))] if random.random() < 0.25 else near
        elif random.random() < 0.25 or not isinstance(old, (int, float)):
            made[key] = given() if callable(given) else _drawn(given, random)
        else:
            made[key] = type(old)(old * random.choice([0.8, 1.2]))
    return made


def _drawn(space: Number, random: Any) -> float:
    low, high = np.log([space.low, space.high]) if space.log else (space.low, space.high)
    value = random.uniform(low, high)
    value = float(np.exp(value) if space.log else value)
    return round(value) if space.whole else value


def create_scheduler(scheduler: str, **how: Any) -> Any:
    """A scheduler by its name.

    Raises:
        ValueError: there is none.
    """
    return _by_name("scheduler", scheduler, SCHEDULERS)(**how)


def create_searcher(search_alg: str, **how: Any) -> Any:
    """A searcher by its name.

    Raises:
        ValueError: there is none.
    """
    return _by_name("search_alg", search_alg, SEARCHERS)(**how)


def _by_name(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name.lower() not in known:
        raise ValueError(f"{what}={name!r} is not allowed: {', '.join(known)}.")
    return known[name.lower()]


def mutated(config: Mapping[str, Any], mutations: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with a population's searches in it."""
    made = dict(config)
    for key, given in mutations.items():
        if isinstance(given, Mapping):
            made[key] = mutated(made.get(key) or {}, given)
        elif is_search(given) or is_search(made.get(key)):
            made[key] = given if is_search(given) else made[key]
        elif callable(given):
            text = f"The function of {key!r} becomes {DRAWN} values that it returned."
            warnings.warn(text, PoiseWarning, stacklevel=3)
            made[key] = choice(sorted({given() for _ in range(DRAWN)}))
        else:
            made[key] = choice(list(given))
    return made
