"""Counts of parameters and FLOPs against published and hand-worked numbers."""

import json

import pytest
from small import change, make_mesh_config

from nouscoder_jax.config import UserError
from nouscoder_jax.planning import sizes

# model cards of Qwen/Qwen3-*: parameters, and those outside the embeddings, in billions
PUBLISHED = {"0.6B": (0.6, 0.44), "1.7B": (1.7, 1.4), "4B": (4.0, 3.6), "8B": (8.2, 6.95), "14B": (14.8, 13.2),
             "32B": (32.8, 31.2)}  # fmt: skip


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_those_of_the_model_card(size):
    a = sizes.find_architecture(f"Qwen/Qwen3-{size}")
    embeddings = a.vocab_size * a.hidden_size * (1 if a.tie_word_embeddings else 2)
    total, inner = PUBLISHED[size]
    assert sizes.parameter_count(a) / 1e9 == pytest.approx(total, abs=0.05)
    assert (sizes.parameter_count(a) - embeddings) / 1e9 == pytest.approx(inner, abs=0.05)


def test_qwen3_14b_has_the_parameters_of_its_files(qwen3_14b):
    assert sizes.parameter_count(qwen3_14b) == 14_768_307_200


@pytest.mark.parametrize("size", ["0.6B", "8B"])
def test_the_count_is_that_of_the_model_itself(size):
    import jax

    from nouscoder_jax.model.weights import abstract_model

    a = sizes.find_architecture(f"Qwen/Qwen3-{size}")
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_model(a))) == sizes.parameter_count(a)


def test_a_biased_model_counts_its_biases(qwen3_14b):
    import dataclasses

    biased = dataclasses.replace(qwen3_14b, attention_bias=True)
    # 40 layers: (40 + 2 x 8) heads x 128, and 5120 behind o_proj
    assert sizes.parameter_count(biased) - sizes.parameter_count(qwen3_14b) == 40 * (56 * 128 + 5120)


def test_a_directory_is_read_by_its_config_json(tmp_path, qwen3_14b):
    (tmp_path / "config.json").write_text(json.dumps(qwen3_14b.to_hf() | {"num_hidden_layers": 3}))
    assert sizes.find_architecture(str(tmp_path)).num_layers == 3


def test_base_models_have_the_same_sizes():
    assert sizes.find_architecture("Qwen/Qwen3-8B-Base") == sizes.find_architecture("Qwen/Qwen3-8B")


def test_an_unknown_model_is_refused_with_those_that_are_known():
    with pytest.raises(UserError, match=r"known are .*Qwen/Qwen3-14B"):
        sizes.find_architecture("Qwen/Qwen3-235B-A22B")


def test_the_cache_of_a_token_is_160_kib_for_14b(qwen3_14b):
    assert sizes.kv_bytes_per_token(qwen3_14b) == 2 * 40 * 8 * 128 * 2


def test_forward_flops_of_one_short_sequence_by_hand(qwen3_14b):
    forward = sizes.forward_flops(qwen3_14b, num_tokens=10, sequence_tokens=10.0)
    layer = 5120 * 5120 + 2 * 5120 * 1024 + 5120 * 5120 + 3 * 5120 * 17408
    assert forward.layers == 2 * 10 * 40 * layer
    assert forward.logits == 2 * 10 * 5120 * 151936
    # scores and values: each 2 x 10 x 10 / 2 x 5120 a layer
    assert forward.attention == 40 * 2 * (10 * 10 * 5120)


def test_half_as_long_sequences_halve_attention_and_nothing_else(qwen3_14b):
    whole = sizes.forward_flops(qwen3_14b, num_tokens=32768, sequence_tokens=32768.0)
    packed = sizes.forward_flops(qwen3_14b, num_tokens=32768, sequence_tokens=16384.0)
    assert (packed.layers, packed.attention, packed.logits) == (whole.layers, whole.attention / 2, whole.logits)


def test_mfu_counts_three_forward_passes_and_remat_runs_the_layers_once_more(qwen3_14b):
    forward = sizes.forward_flops(qwen3_14b, num_tokens=4096, sequence_tokens=4096.0)
    assert sizes.model_flops(forward).total == pytest.approx(3 * forward.total)
    kept, again = (sizes.executed_flops(forward, remat=remat) for remat in ("none", "layer"))
    assert again.layers - kept.layers == pytest.approx(forward.layers)
    assert again.logits == kept.logits == pytest.approx(3 * forward.logits)


def test_the_flops_are_those_of_the_products_in_the_real_update(dapo):
    """Plain attention computes the whole square of scores, twice the causal half, and keeps them for its backward pass.
    The MLP stands in the program once too often: its backward pass recomputes it by itself, so that the recomputed
    layer's own is never read and compilers drop it."""
    import dataclasses

    import jax

    from nouscoder_jax import sharding
    from nouscoder_jax.planning import compile as compiling
    from nouscoder_jax.training.update import make_update_on_mesh

    a = dataclasses.replace(
        sizes.find_architecture("Qwen/Qwen3-0.6B"), vocab_size=4096, hidden_size=256, intermediate_size=512,
        num_layers=3, num_heads=4, num_kv_heads=2, head_dim=64,
    )  # fmt: skip
    one = make_mesh_config()
    config = compiling.with_size(dapo, one, row_tokens=64, rows_per_gpu=1)  # attended at once
    config = change(config, model={"attention": "reference"})
    mesh = sharding.make_mesh(one, devices=jax.devices()[:1])
    update = make_update_on_mesh(config, a, mesh, loss_name="dapo")
    arguments = compiling.abstract_arguments(config, a, mesh, num_micro_batches=1)
    with jax.set_mesh(mesh):
        counted = _dot_flops(update.trace(*arguments).jaxpr.jaxpr)
    forward = sizes.forward_flops(a, num_tokens=64, sequence_tokens=64.0)
    unread_mlp = 2.0 * 64 * a.num_layers * 3 * a.hidden_size * a.intermediate_size
    executed = forward.times(layers=4.0, attention=2 * 4.0, logits=3.0).total
    assert counted == pytest.approx(executed + unread_mlp, rel=1e-3)


def _dot_flops(jaxpr) -> float:
    import math

    flops = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[dim] for dim in contracted)
            flops += 2.0 * inner * equation.outvars[0].aval.size
        times = equation.params.get("length", 1)
        flops += times * sum(_dot_flops(inner) for inner in _inner_jaxprs(equation.params))
    return flops


def _inner_jaxprs(params):
    for name, value in params.items():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns") and name not in ("fwd_jaxpr_thunk", "bwd"):
                yield one
