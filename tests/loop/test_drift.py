"""Drift over its bounds names the token that drifts most."""

import pytest
from small import change

from nouscoder_jax.experience.packing import pack
from nouscoder_jax.loop.drift import check_drift
from nouscoder_jax.types import DriftError


@pytest.fixture
def check(tiny_config, make_experience):
    experiences = (
        make_experience(problem_id="problem-0", index=0, prompt=(1, 2, 3), completion=(7, 8, 9)),
        make_experience(problem_id="problem-1", index=1, prompt=(1, 2), completion=(7, 8)),
        make_experience(problem_id="problem-2", index=2, prompt=(4, 5), completion=(6,), trainable=False),
    )
    batch, _ = pack(
        experiences, row_tokens=16, rows_per_micro_batch=1, max_experiences=3, packed_rows=True, policy_version=0
    )
    config = change(tiny_config, loss={"max_drift_mean": 0.0})

    def check(**metrics):
        check_drift(metrics, batch, experiences, config=config, step=3)

    return check


def test_drift_within_its_bounds_says_nothing(check):
    check(on_policy_drift_mean=0.1, on_policy_drift_max=0.2)


def test_drift_over_its_bounds_names_step_problem_rollout_and_token(check):
    shut = {"on_policy_drift_mean": 0.1, "on_policy_drift_max": 0.75}
    with pytest.raises(DriftError, match=r"^step 3: .* \(loss.max_drift_mean off\) and by 0.75 at most") as error:
        check(**shut, drift_exceeded_at=7.0)  # 6 tokens of the longer one, then the target of (1, 2)
    told = "problem problem-1, group 0, sample 1: token 0 of 2, id 7, logprob -0.5 in the engine; this update was not"
    assert told in str(error.value)
    with pytest.raises(DriftError, match=r"problem-0, group 0, sample 0: token 2 of 3, id 9, logprob -2.5"):
        check(**shut, drift_exceeded_at=4.0)
