"""The callbacks of the cluster article: `utils/callbacks.py`, with its import from `poise.compat`."""

# ruff: noqa
from types import SimpleNamespace

from poise.compat.azureml.core import Run


def on_train_result(info):
    '''Callback on train result to record metrics returned by trainer.
    '''
    run = Run.get_context()
    run.log(
        name='episode_reward_mean',
        value=info["result"]["episode_reward_mean"])
    run.log(
        name='episodes_total',
        value=info["result"]["episodes_total"])


callbacks = SimpleNamespace(on_train_result=on_train_result)
