"""What the updates of a step measured together, and what becomes of updates that are not finite."""

import math

import pytest
from small import change

from nouscoder_jax.loop import train_step
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.training.update import UpdateMetrics
from nouscoder_jax.types import DivergedError

FEW = UpdateMetrics(
    {
        "loss": 0.2, "entropy": 1.0, "clip_high_share": 0.5, "ratio_max": 1.5, "grad_norm": 1.0,
        "learning_rate": 1e-6, "num_tokens": 10.0, "skipped": 0.0,
    },
    counts={"loss": 10.0, "entropy": 10.0, "clip_high_share": 10.0},
)  # fmt: skip
MANY = UpdateMetrics(
    {
        "loss": 0.4, "entropy": 2.0, "clip_high_share": 0.0, "ratio_max": 1.2, "grad_norm": 3.0,
        "learning_rate": 2e-6, "num_tokens": 990.0, "skipped": 0.0, "on_policy_drift_mean": 0.25,
        "on_policy_drift_max": 0.5,
    },
    counts={"loss": 990.0, "entropy": 990.0, "clip_high_share": 990.0, "on_policy_drift_mean": 4.0},
)  # fmt: skip
NOT_FINITE = UpdateMetrics(
    {"loss": math.nan, "entropy": math.nan, "grad_norm": math.inf, "num_tokens": 7.0, "skipped": 1.0},
    counts={"loss": 7.0, "entropy": 7.0},
)


def test_a_mean_over_a_step_is_over_its_tokens_not_over_its_updates():
    joined = train_step.join([FEW, MANY])
    assert joined == pytest.approx(
        {
            "loss": 0.398, "entropy": 1.99, "clip_high_share": 0.005, "ratio_max": 1.5, "grad_norm": 2.0,
            "learning_rate": 2e-6, "trained_tokens": 1000.0, "skipped": 0.0,
            "on_policy_drift_mean": 0.25, "on_policy_drift_max": 0.5,
        }
    )  # fmt: skip


def test_what_no_update_measured_is_absent():
    assert not any(name.startswith("on_policy") for name in train_step.join([FEW, FEW]))


def test_an_update_that_was_not_taken_is_counted_and_spoils_nothing():
    joined = train_step.join([FEW, NOT_FINITE])
    assert joined["skipped"] == 1 and joined["trained_tokens"] == 10 and all(map(math.isfinite, joined.values()))
    assert train_step.join([NOT_FINITE, NOT_FINITE]) == {"skipped": 2}


def test_so_many_in_a_row_end_the_run(tiny_config):
    config = change(tiny_config, optimizer={"max_skipped": 2})
    progress = Progress(policy_version=4)

    def count(metrics):
        train_step._count(metrics, progress, config=config, step=3)

    for metrics in (NOT_FINITE, FEW, NOT_FINITE):
        count(metrics)
    assert (progress.policy_version, progress.skipped, progress.skipped_in_a_row) == (5, 2, 1)
    with pytest.raises(DivergedError, match=r"step 3: 2 updates in a row were not finite \(loss nan"):
        count(NOT_FINITE)
    assert progress.policy_version == 5
