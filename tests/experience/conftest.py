"""Makers of small carriers."""

import dataclasses

import pytest


@pytest.fixture
def make_verdict():
    from nouscoder_jax.types import Outcome, Verdict

    def make(accepted):
        return Verdict(
            outcome=Outcome.ACCEPTED if accepted else Outcome.WRONG_ANSWER,
            tests_passed=8 if accepted else 1,
            tests_total=8,
            cpu_s=0.01,
            peak_memory_mib=0.0,
            detail="",
        )

    return make


@pytest.fixture
def experience_config():
    from small import make_config

    return dataclasses.replace(  # without what the other sections ask of this one
        make_config().experience,
        reward_accepted=1.0,
        reward_rejected=-1.0,
        advantage="group_mean_std",
        std_ddof=0,
        overlong="zero_advantage",
        drop_equal_groups=True,
        max_draws_per_batch=3,
        short_batch="train",
        packed_rows=True,
        row_tokens=64,
        rows_per_micro_batch=2,
        updates_per_batch=1,
    )
