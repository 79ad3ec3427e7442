"""What keeps a run from learning, told by its numbers.

A symptom is a function of a run's `Course`: what was seen, with its numbers, and what to try; or
None. Most are told only of a run whose return has not risen, since a policy that learns may well
have gradients that are clipped, or actions at their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from poise.advice.course import Course

Told = tuple[str, str] | None
"""What was seen, and what to try."""
Symptom = Callable[[Course], Told]

SYMPTOMS: dict[str, tuple[Symptom, str]] = {}
"""By name, the likeliest cause first; with when it is told, see `_symptom`."""


@dataclass(frozen=True)
class Finding:
    """One reason why a run does not learn, or learns slowly.

    Attributes:
        symptom: its name in `SYMPTOMS`.
        text: one sentence: what was seen, with the numbers.
        advice: one sentence: what to try.
    """

    symptom: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text} {self.advice}"


def findings(course: Course) -> list[Finding]:
    """What can be told of a run, the likeliest cause first."""
    found: list[Finding] = []
    for name, (symptom, when) in SYMPTOMS.items():
        due = {"always": True, "stuck": not course.learns, "last": not (course.learns or found)}
        if due[when] and (told := symptom(course)):
            found.append(Finding(name, *told))
    return found


def _symptom(name: str, when: str = "stuck") -> Callable[[Symptom], Symptom]:
    """Adds a symptom.

    Args:
        name: its name.
        when: it is told `always`, of a run that is `stuck`, or as the `last` of one, where nothing
            else was found.
    """

    def known(symptom: Symptom) -> Symptom:
        SYMPTOMS[name] = (symptom, when)
        return symptom

    return known


# What breaks.


@_symptom("failures", "always")
def failures(course: Course) -> Told:
    """The environment raises, hangs or crashes again and again."""
    failed, ended = course.last("env_failures_total"), course.last("episodes_total")
    if failed < 3 or failed < 0.02 * ended:
        return None
    return (
        f"The environment has failed {failed:,.0f} times in {course.steps:,} steps, and "
        f"{course.last('episodes_lost_total'):,.0f} episodes were lost.",
        "`poise check-env` says what is wrong with it, and log.txt has the first traceback.",
    )


@_symptom("skipped updates", "always")
def skipped(course: Course) -> Told:
    """Gradients are not finite, and updates are left out."""
    skipped = course.last("learner/skipped_updates")
    taken = sum(course.of("learner/sgd_steps"))
    if skipped < 3 or skipped < 0.01 * taken:
        return None
    return (
        f"{skipped:,.0f} of {skipped + taken:,.0f} updates were left out: their gradients were not "
        "finite.",
        f"Lower lr{_or_set(course, 'normalize_rewards', 'normalize_observations')}.",
    )


# What is tried, seen and earned.


@_symptom("no episode ends", "always")
def endless(course: Course) -> Told:
    """Episodes never end, so that there is no return."""
    if course.episodes or course.steps < 50_000:
        return None
    return (
        f"No episode has ended in {course.steps:,} steps, so that there is no return to learn by.",
        'Set a time limit: env_config={"max_episode_steps": 1000}.',
    )


@_symptom("too little exploration")
def explores_too_little(course: Course) -> Told:
    """DQN stops trying actions by chance almost at once."""
    shares = course.of("learner/cur_epsilon")
    if not shares:
        return None
    reached = next((i for i, share in enumerate(shares) if share <= 0.02), None)
    if reached is None or steps_at(course, reached) > 0.02 * course.steps + 1000:
        return None
    return (
        f"Actions were tried by chance in the first {steps_at(course, reached):,} steps only.",
        "Let their share fall from 1 (initial_epsilon) to 0.05 (final_epsilon), over a tenth of "
        "the run (epsilon_timesteps).",
    )


@_symptom("returns never vary")
def returns_never_vary(course: Course) -> Told:
    """Every episode earns the same."""
    returns = np.array([episode[2] for episode in course.episodes])
    if len(returns) < 200 or returns.min() < returns.max():
        return None
    return (
        f"Every one of {len(returns):,} episodes returned {returns[0]:g}: nothing tells good "
        "actions from bad ones.",
        "Look whether the reward is what you mean; if the goal is only never met, reward steps on "
        f"the way to it, begin episodes near it, or explore more{exploration(course)}.",
    )


@_symptom("observations never vary")
def observations_never_vary(course: Course) -> Told:
    """What the policy sees is always the same."""
    numbers = _numbers(course)
    if numbers is None or len(numbers) < 100 or np.ptp(numbers, axis=0).any():
        return None
    return (
        f"All observations of {len(numbers):,} steps were the same: the policy is blind.",
        "Look at what reset and step return: it may be an array that never changes, or a copy that "
        "is made too early.",
    )


@_symptom("scale of observations")
def observations_scale(course: Course) -> Told:
    """Numbers of the observation are far larger than 1, and not normalised."""
    numbers = _numbers(course)
    if numbers is None or course.config.get("normalize_observations"):
        return None
    size = np.abs(numbers).mean(0)
    column = int(size.argmax()) if size.size else 0
    if not size.size or size[column] < 30:
        return None
    return (
        f"Numbers of the observation are about {size[column]:,.4g} large (the one at place "
        f"{column}), and networks learn from numbers near 1.",
        "Set normalize_observations=True, or divide them in the environment.",
    )


@_symptom("scale of rewards")
def rewards_scale(course: Course) -> Told:
    """Rewards are far larger or smaller than 1, and not normalised."""
    scaled = course.config.get("normalize_rewards") or course.config.get("clip_rewards")
    size = None if scaled else _reward(course)
    if not size or 1e-3 <= size <= 100:
        return None
    return (
        f"A step's reward is {size:.3g} on average, and networks learn from numbers near 1.",
        "Set normalize_rewards=True, or scale the reward in the environment.",
    )


@_symptom("time limits")
def time_limits(course: Course) -> Told:
    """Every episode is cut after a few steps."""
    seen = course.seen
    if not seen or len(seen.lengths) < 10 or seen.truncated < len(seen.lengths):
        return None
    length = max(seen.lengths)
    if length >= 50 or len({*seen.lengths}) > 1:
        return None
    return (
        f"Every episode is cut by a time limit after {length} step{'s' * (length != 1)}: "
        "what comes later is never seen.",
        "Raise the limit (max_episode_steps in env_config), unless the task is that short.",
    )


# What the settings do.


@_symptom("learning rate too low")
def lr_too_low(course: Course) -> Told:
    """The policy does not move."""
    lr, moves = course.setting("lr"), [abs(moved) for moved in course.of("learner/kl")]
    entropies = course.of("learner/entropy")
    if moves:
        still = max(moves) < 1e-5
    elif len(entropies) >= 10 and not course.has("final_epsilon"):
        open_ = entropies[0] > 0.5 * (course.choices or -math.inf)  # else it has collapsed
        still = open_ and max(entropies) - min(entropies) < 1e-4 * max(1.0, abs(entropies[0]))
    else:
        still = lr is not None and lr < 1e-6
    if not still or lr is None:
        return None
    why = f" (an iteration moves it by {max(moves):.1g} nats)" if moves else ""
    clip = course.setting("grad_clip")
    if clip is not None and clip < 1e-3:
        return (
            f"The policy hardly changes{why}: grad_clip={clip:g} leaves nothing of the gradients.",
            "Set grad_clip to 0.5 or more.",
        )
    return (
        f"The policy hardly changes{why}, with lr={lr:g}.",
        "Raise lr ten times, and again, until the return moves.",
    )


@_symptom("learning rate too high")
def lr_too_high(course: Course) -> Told:
    """The policy jumps with every iteration."""
    moved, clipped = course.late("learner/kl"), course.late("learner/clip_fraction")
    early = max(map(abs, course.of("learner/kl")[:10]), default=0.0)
    lr = course.setting("lr")
    if lr is None or (
        (moved is None or abs(moved) < 0.3) and (clipped is None or clipped < 0.5) and early < 1
    ):
        return None
    jump = max(early, abs(moved or 0.0))
    held = " or ".join(key for key in ("num_sgd_iter", "target_kl") if course.has(key))
    return (
        f"An iteration moves the policy by {jump:.2g} nats (0.01 to 0.05 is usual), with "
        f"lr={lr:g}: it jumps past what it looks for.",
        f"Lower lr three times, and again{f'; a lower {held} holds it back, too' if held else ''}.",
    )


@_symptom("entropy collapsed")
def entropy_collapsed(course: Course) -> Told:
    """The policy has become certain of itself before it was any good."""
    late = course.late("learner/entropy")
    if late is None or not course.has("entropy_coeff") or course.layouts is None:
        return None
    most, count = course.choices, course.numbers
    weight = course.setting("entropy_coeff") or 0.0
    if most is not None:
        low, usual = late < 0.05 * most, f"of at most {most:.2f}"
    else:
        low, usual = count > 0 and late < -2.5 * count, f"for {count} numbers"
    if not low:
        return None
    return (
        f"The policy hardly tries anything any more: its entropy is {late:.3f} nats, {usual}.",
        f"Raise entropy_coeff (it is {weight:g}) to {max(0.01, 3 * weight):g}, and lower lr.",
    )


@_symptom("entropy never falls")
def entropy_never_falls(course: Course) -> Told:
    """The policy is paid for acting at random."""
    late, most = course.late("learner/entropy"), course.choices
    weight = course.setting("entropy_coeff") or 0.0
    if late is None or most is None or weight <= 0.02 or late < 0.97 * most:
        return None
    return (
        f"The policy acts at random: its entropy is {late:.3f} nats, of at most {most:.2f}, since "
        f"entropy_coeff={weight:g} rewards that more than the task does.",
        "Lower entropy_coeff to 0.01 or 0.",
    )


@_symptom("discount too low")
def discount_too_low(course: Course) -> Told:
    """Episodes are far longer than the policy looks ahead."""
    gamma = course.setting("gamma")
    if gamma is None or gamma >= 1 or course.length < 10:
        return None
    horizon = 1 / (1 - gamma)
    if horizon > 0.099 * course.length:  # the usual 100 steps of 1,000 are enough
        return None
    return (
        f"gamma={gamma:g} looks {horizon:.1f} steps ahead, and episodes have {course.length:.0f}: "
        "what comes later counts for nothing.",
        f"Raise gamma to {next(g for g in (0.99, 0.999, 0.9999, 1.0) if g > gamma):g}.",
    )


@_symptom("too few updates", "always")
def too_few_updates(course: Course) -> Told:
    """Hardly any gradient step is taken."""
    steps = sum(course.of("learner/sgd_steps"))
    if (
        not steps
        or steps >= 100
        or course.steps < 50_000
        or "train_batch_size" not in course.config
    ):
        return None
    return (
        f"There were {steps:.0f} updates in {course.steps:,} steps.",
        "Lower train_batch_size (or the environments and the rollout_fragment_length that make it) "
        "and the minibatch, so that there are hundreds.",
    )


@_symptom("values diverge", "always")
def values_diverge(course: Course) -> Told:
    """The values of actions are far above anything that was earned."""
    value = course.late("learner/q")
    if value is None or not course.episodes or course.config.get("normalize_rewards"):
        return None
    most = max(float(np.abs(course.returns).max(initial=0)), 1.0)
    if (alpha := course.late("learner/alpha")) is not None:  # values hold entropies, too
        most += alpha * 2 * course.numbers / (1 - min(course.setting("gamma") or 0.99, 0.9999))
    if abs(value) < 10 * most:
        return None
    slower = ", let the target network follow more slowly (target_network_update_freq, tau)"
    return (
        f"The value of its actions is {value:,.4g}, and no episode has earned more than "
        f"{most:,.4g}: values feed on themselves.",
        f"Lower lr{slower * course.config.get('target_networks', True)}"
        f"{_or_set(course, 'double_q')}.",
    )


@_symptom("actions at the bounds")
def actions_at_bounds(course: Course) -> Told:
    """Numbers of actions are nearly always at a bound."""
    share = course.late("learner/saturation")
    if share is None and course.seen is not None and course.seen.actions.size:
        share = float((np.abs(course.seen.actions) >= 0.999).mean())
    if share is None or share < 0.8:
        return None
    advice = (
        "Lower lr and the scale of rewards."
        if course.has("learn_alpha") or course.has("policy_delay")
        else "Lower model.log_std_init, or lr."
    )
    return f"{share:.0%} of the numbers of its actions are at their bounds.", advice


@_symptom("gradients always clipped", "last")
def gradients_clipped(course: Course) -> Told:
    """Gradients are cut to a small share of their length."""
    norm, clip = course.late("learner/grad_norm"), course.setting("grad_clip")
    if norm is None or clip is None or norm < 50 * clip:
        return None
    return (
        f"Gradients have a norm of {norm:,.3g}, and grad_clip={clip:g} cuts all of them to it.",
        f"Raise grad_clip{', lower vf_loss_coeff' * course.has('vf_loss_coeff')}"
        f"{_or_set(course, 'normalize_rewards')}.",
    )


@_symptom("values explain nothing", "last")
def values_explain_nothing(course: Course) -> Told:
    """Values say nothing about returns: what they depend on is not seen."""
    explained = course.late("learner/vf_explained_var")
    if explained is None or explained > 0.05 or len(course.of("learner/vf_explained_var")) < 10:
        return None
    forgets = not (course.config.get("model") or {}).get("memory")
    return (
        f"The value function explains {max(explained, -9.99):.2f} of what returns differ by (1 is "
        "all of it): what is seen does not say what will be earned.",
        "Look whether the observation holds what the reward depends on"
        + '; if that lies in the past, try model.memory="lstm"' * forgets
        + ".",
    )


# What costs time.


@_symptom("slow environment", "always")
def slow_environment(course: Course) -> Told:
    """Most of the time is spent in the environment, by one process."""
    share, rate = course.late("perf/env_share"), course.late("perf/env_steps_per_s")
    alone = not course.config.get("num_workers") and not course.config.get("ray_address")
    if share is None or rate is None or not alone or not course.workers:
        return None
    if share < 0.75 or rate > 3000:
        return None
    return (
        f"{share:.0%} of the time passes in the environment, at {rate:,.0f} steps per second.",
        'Let worker processes step it: num_workers="auto".',
    )


def steps_at(course: Course, index: int) -> int:
    """The steps of the run at one of its results."""
    return int(course.results[min(index, len(course.results) - 1)]["timesteps_total"])


def _numbers(course: Course) -> np.ndarray | None:
    """Numbers of all observations that were seen, `[steps, numbers]`; None if there are none."""
    parts = [*course.seen.observations.values()] if course.seen else []
    return np.concatenate(parts, 1) if parts else None


def _reward(course: Course) -> float | None:
    """How large a step's reward is."""
    rewards = course.seen.rewards if course.seen else course.returns / max(1, course.length)
    return float(np.abs(rewards).mean()) if len(rewards) else None


def _or_set(course: Course, *names: str) -> str:
    """The end of a piece of advice: those of these settings that a run has, and not on."""
    off = [f"{name}=True" for name in names if course.has(name) and not course.config[name]]
    return f", or set {' or '.join(off)}" if off else ""


def exploration(course: Course) -> str:
    """In brackets, the setting that makes an agent try more, if there is one, and its value."""
    keys = ["exploration_noise", "epsilon_timesteps", "entropy_coeff", "target_entropy_share"]
    if course.layouts and isinstance(course.layouts[1].space, spaces.Box):
        keys.insert(1, "exploration_correlation")
    known = [key for key in keys if course.has(key)]
    return f" (a larger {known[0]}, now {course.config[known[0]]})" if known else ""
