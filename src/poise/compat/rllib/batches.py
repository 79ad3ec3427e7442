"""RLlib's `SampleBatch`: a dictionary of arrays with one row a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from poise.compat.ray_missing import AbsentError

DEFAULT_POLICY_ID = "default_policy"


class SampleBatch(dict[str, Any]):
    """Arrays by name, as long as each other.

    Attributes:
        count: rows.
    """

    OBS, CUR_OBS, NEXT_OBS, ACTIONS, REWARDS = "obs", "obs", "new_obs", "actions", "rewards"
    DONES, TERMINATEDS, TRUNCATEDS, INFOS = "dones", "terminateds", "truncateds", "infos"
    PREV_ACTIONS, PREV_REWARDS, EPS_ID, AGENT_INDEX, T, UNROLL_ID = (
        "prev_actions", "prev_rewards", "eps_id", "agent_index", "t", "unroll_id",
    )  # fmt: skip
    ACTION_DIST_INPUTS, ACTION_LOGP, ACTION_PROB, VF_PREDS, SEQ_LENS = (
        "action_dist_inputs", "action_logp", "action_prob", "vf_preds", "seq_lens",
    )  # fmt: skip

    @property
    def count(self) -> int:
        return max((len(each) for each in self.values()), default=0)

    def env_steps(self) -> int:
        """Rows."""
        return self.count

    agent_steps = env_steps


class Seen(SampleBatch):
    """The steps of an agent in an episode that is over, which can be read and not changed."""

    @classmethod
    def of(cls, steps: Sequence[dict[str, Any]], agent: Any) -> Seen:
        """The rows of an agent."""
        batch = cls()
        for key in ("obs", "new_obs", "actions", "rewards", "infos"):
            values = [step[key].get(agent) for step in steps]
            column = np.array(values, object if key == "infos" else None)
            column.flags.writeable = False
            dict.__setitem__(batch, key, column)
        dict.__setitem__(batch, "dones", np.array([step["dones"] for step in steps]))
        return batch

    def __missing__(self, key: str) -> Any:
        raise AbsentError(f"A trajectory has no {key!r} here: it has {', '.join(self)}.")

    def __setitem__(self, key: str, value: Any) -> None:
        raise AbsentError(
            f"on_postprocess_trajectory cannot set {key!r}: what is learnt from does not change "
            "here. Rewards and observations are changed by a wrapper of the environment."
        )


class MultiAgentBatch:
    """What RLlib's code asks the type of; there are none here."""
