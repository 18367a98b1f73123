"""What the parts of the loop measure must be known before the first step, not when the first update has been paid for.

In: a TrainConfig. Out: those names that the config decides, and those that need no batch; UserError where
metrics/names.py lacks one. Ages, lengths by class, idle shares and throughput come with the first batch.
"""

from __future__ import annotations

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.evaluation import summarize
from nouscoder_jax.loop import train_step
from nouscoder_jax.loop.collect import step_metrics
from nouscoder_jax.loop.groups import Collected, Position
from nouscoder_jax.loop.learner import held_out_metrics
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics import names


def metric_names(config: TrainConfig) -> set[str]:
    """Those of a step, of its update and of an evaluation; each part is asked about nothing."""
    nothing = Collected(
        step=1,
        groups=(),
        position=Position(next_group_id=0, stream_state=None, pending=()),
        num_in_flight=0,
        waiting=(0, 0),
    )
    return {
        *step_metrics(nothing, policy_version=0),
        *train_step.metric_names(config),
        *Progress().metrics(group_size=config.rollout.group_size),
        *held_out_metrics(summarize((), ())),
    }


def check_metric_names(config: TrainConfig) -> None:
    """Raises UserError for a name that metrics/names.py does not list."""
    if unknown := names.unknown(metric_names(config)):
        raise UserError(
            f"a run of config {config.name} (loss {config.loss.name}) would measure {', '.join(unknown)}, which "
            "METRICS in nouscoder_jax/metrics/names.py does not list; add there what each means, with its unit"
        )
