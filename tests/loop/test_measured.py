"""A metric that nobody has described is found before the first step."""

import functools

import jax.numpy as jnp
import pytest
from small import change

from nouscoder_jax.config import UserError
from nouscoder_jax.loop import measured
from nouscoder_jax.losses import Max
from nouscoder_jax.metrics import names
from nouscoder_jax.training import objective

OBJECTIVES = sorted(objective.LOSSES.keys() - {"supervised"})


@pytest.mark.parametrize("loss_name", OBJECTIVES)
def test_what_every_objective_measures_is_described(tiny_config, loss_name):
    config = change(tiny_config, loss={"name": loss_name})
    measured.check_metric_names(config)
    assert {"update/clip_high_share", "update/drift_max", "reward/mean", "rollouts/filtered/equal"} <= (
        measured.metric_names(config)
    )


def test_an_objective_with_a_metric_of_its_own_is_told_before_anything_starts(tiny_config, monkeypatch):
    dapo = objective.LOSSES["dapo"]

    @functools.wraps(dapo)
    def with_another(*args, **kwargs):
        loss, metrics = dapo(*args, **kwargs)
        return loss, metrics | {"surprise": Max(jnp.float32(1))}

    monkeypatch.setitem(objective.LOSSES, "dapo", with_another)
    with pytest.raises(UserError, match=r"loss dapo\) would measure update/surprise, which .*names.py does not list"):
        measured.check_metric_names(tiny_config)


@pytest.mark.parametrize("name", ["reward/mean", "held_out/pass_at_1", "rollouts/quarantined", "update/padding_share"])
def test_every_part_of_the_loop_is_asked(tiny_config, monkeypatch, name):
    monkeypatch.delitem(names.METRICS, name)
    with pytest.raises(UserError, match=f"would measure {name}, "):
        measured.check_metric_names(tiny_config)
