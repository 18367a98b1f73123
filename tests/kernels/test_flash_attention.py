"""Flash attention: the same function as its reference, forward and backward, and never time x time of anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_kernels.flash_attention import (
    flash_attention,
    flash_attention_reference,
    key_walks,
    plan_for,
    query_walks,
)

# bf16: products of 2^-8 rounded weights, gradients of up to 5 heads in one sum.
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}
interpreted = functools.partial(flash_attention, interpret=True)
reference = functools.partial(flash_attention_reference, interpret=True)


def arrays(rows, time, heads, kv_heads, head_dim, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(rows, time, count, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def with_gradients(attention):
    def function(segment_ids, queries, keys, values, d_out):
        out, pull = jax.vjp(lambda *inputs: attention(*inputs, segment_ids), queries, keys, values)
        return out, *pull(d_out)

    return function


# One object each: tests of the same shapes share what is compiled.
ours, theirs = with_gradients(interpreted), with_gradients(reference)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "time", "lengths", "dtype"),
    [
        (5, 1, 32, 75, ([20, 30], [75]), jnp.float32),
        (2, 1, 64, 40, ([10, 1, 20],), jnp.bfloat16),
        pytest.param(2, 2, 16, 64, ([64], [10, 1, 40]), jnp.float32, marks=pytest.mark.slow),
        pytest.param(4, 2, 64, 150, ([40, 60, 31], [20, 100]), jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param(2, 1, 8, 33, ([33],), jnp.float32, marks=pytest.mark.slow),
        pytest.param(4, 2, 24, 70, ([30, 30],), jnp.float32, marks=pytest.mark.slow),
        pytest.param(5, 1, 128, 200, ([130], [64, 64, 64]), jnp.float32, marks=pytest.mark.slow),
        pytest.param(10, 2, 128, 130, ([100, 29], []), jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param(3, 3, 64, 1, ([1], []), jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_are_the_references(
    heads, kv_heads, head_dim, time, lengths, dtype, run, packed, difference
):
    inputs = arrays(len(lengths), time, heads, kv_heads, head_dim, dtype)
    segment_ids = packed(time, *lengths)
    got = run(ours, segment_ids, *inputs)
    assert difference(got, run(theirs, segment_ids, *inputs)) < TOLERANCE[dtype]


def test_a_query_that_likes_all_keys_alike_sees_the_mean_of_its_segment_so_far(run):
    zeros = jnp.zeros((1, 5, 1, 16))
    values = jnp.broadcast_to(jnp.array([1.0, 3.0, 10.0, 20.0, 7.0])[None, :, None, None], zeros.shape)
    out = run(interpreted, zeros, zeros, values, jnp.array([[1, 1, 2, 2, 0]]))
    np.testing.assert_allclose(out[0, :, 0, 0], [1, 2, 10, 15, 7], rtol=1e-6)


def test_no_gradient_crosses_a_segment_or_runs_to_later_tokens(run, packed):
    queries, keys, values, d_out = arrays(2, 75, 5, 1, 32)
    segment_ids = packed(75, [20, 30], [75])  # padding: 50 to 74
    only = jnp.where((jnp.arange(75) == 40)[None, :, None, None], d_out, 0.0)
    _, _, d_keys, d_values = run(ours, segment_ids, queries, keys, values, only)
    for gradient in (d_keys, d_values):
        touched = np.flatnonzero(np.any(np.asarray(gradient)[0, :, 0] != 0, axis=-1))
        np.testing.assert_array_equal(touched, np.arange(20, 41))


@pytest.mark.slow
def test_segment_ids_need_not_be_contiguous_nor_small(run, difference):
    inputs = arrays(1, 96, 2, 1, 16)
    segment_ids = jnp.asarray(np.random.default_rng(1).choice([0, 3, 7, 5000], size=(1, 96)), jnp.int32)
    got = run(ours, segment_ids, *inputs)
    assert difference(got, run(theirs, segment_ids, *inputs)) < 1e-5


def test_key_walks_worked_out_by_hand(run, packed):
    # Blocks of 4 queries and 2 keys. Segments: 0..4, 5..13, padding 14 and 15.
    walks = run(functools.partial(key_walks, query_block=4, key_block=2), packed(16, [5, 9]))[0]
    # Queries 0-3: keys from 0, none whole before the diagonal. 4-7 hold two segments: from key 0, none whole.
    # 8-11 are of segment 2 alone: from key 5, so from block 2; whole are blocks 3 (6, 7) to 4. 12-15: two segments.
    np.testing.assert_array_equal(walks, [[0, 0, 0, 2], [0, 3, 3, 4], [2, 3, 4, 6], [2, 7, 7, 8]])


def test_query_walks_worked_out_by_hand(run, packed):
    # Blocks of 2 queries and 4 keys. Segments: 0..4, 5..13, padding 14 and 15.
    walks = run(functools.partial(query_walks, query_block=2, key_block=4), packed(16, [5, 9]))[0]
    # Keys 0-3 are seen by queries to 4, so by blocks 0 to 2; no block of queries is whole. 4-7: two segments, to 13.
    # 8-11: blocks 4 to 6, of which 6 (12, 13) sees all four. 12-15: two segments.
    np.testing.assert_array_equal(walks, [[0, 2, 2, 3], [2, 4, 4, 7], [4, 6, 7, 7], [6, 8, 8, 8]])


@pytest.mark.parametrize(("query_block", "key_block"), [(8, 4), (4, 8), (8, 8)])
def test_layer_scans_leave_out_only_what_nobody_sees_and_mask_all_but_what_all_see(query_block, key_block, run, packed):
    time = 64
    segment_ids = packed(time, [13, 3, 30, 11], [64], [], [32, 32])
    blocks = {"query_block": query_block, "key_block": key_block}
    keys_of = np.asarray(run(functools.partial(key_walks, **blocks), segment_ids))
    queries_of = np.asarray(run(functools.partial(query_walks, **blocks), segment_ids))
    for row, ids in enumerate(np.asarray(segment_ids)):
        seen = (ids[:, None] == ids[None, :]) & np.tri(time, dtype=bool)
        tiles = seen.reshape(time // query_block, query_block, time // key_block, key_block).swapaxes(1, 2)
        for walk, mine in [*zip(keys_of[row], tiles, strict=True),
                           *zip(queries_of[row], tiles.swapaxes(0, 1), strict=True)]:  # fmt: skip
            first, whole_from, whole_to, end = (int(number) for number in walk)
            assert first <= whole_from <= whole_to <= end
            assert not mine[:first].any() and not mine[end:].any()
            assert mine[whole_from:whole_to].all()


def test_a_row_of_equal_segments_costs_a_walk_of_its_segments_only(run, packed):
    walks = run(functools.partial(key_walks, query_block=128, key_block=64), packed(4096, [512] * 8))[0]
    assert int(jnp.max(walks[:, 3] - walks[:, 0])) == 512 // 64


def test_nothing_of_time_by_time_is_ever_made(shapes_of, packed):
    time = 4096
    inputs = [jax.ShapeDtypeStruct((1, time, heads, 128), jnp.bfloat16) for heads in (2, 1, 1, 2)]
    segment_ids = packed(time, [1000, 3000])

    def largest(attention):
        shapes = shapes_of(with_gradients(attention), segment_ids, *inputs)
        return max(sum(size >= time for size in shape) for shape in shapes)

    assert largest(functools.partial(flash_attention, interpret=False)) == 1
    assert largest(reference) == 2  # the check itself sees a square where there is one


def test_a_head_dim_that_is_too_large_is_refused_with_its_size():
    queries, keys, values, _ = arrays(1, 4, 1, 1, 256)
    with pytest.raises(ValueError, match="got head_dim 256, takes 128 at most"):
        interpreted(queries, keys, values, jnp.ones((1, 4), jnp.int32))


def test_heads_that_kv_heads_do_not_divide_are_refused():
    queries, keys, values, _ = arrays(1, 4, 3, 2, 16)
    with pytest.raises(ValueError, match="got 3 heads over 2 kv heads"):
        interpreted(queries, keys, values, jnp.ones((1, 4), jnp.int32))


def temp_mib(gpu_compile, gpu, time, heads, kv_heads, head_dim, dtype):
    inputs = [jax.ShapeDtypeStruct((1, time, count, head_dim), dtype) for count in (heads, kv_heads, kv_heads, heads)]
    step = with_gradients(functools.partial(flash_attention, interpret=False))
    compiled = gpu_compile(gpu, step, jax.ShapeDtypeStruct((1, time), jnp.int32), *inputs)
    for name in ("forward", "d_queries", "d_keys"):
        assert f"flash_attention_{name}" in compiled.as_text()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["h100", "b200"])
def test_the_gpu_compiler_takes_full_size_and_memory_grows_with_time_alone(gpu, gpu_compile):
    half, full = (temp_mib(gpu_compile, gpu, time, 40, 8, 128, jnp.bfloat16) for time in (40_960, 81_920))
    # Two float32 a token and head: logsumexp and delta. 81,920 x 40 x 8 bytes = 25 MiB.
    assert full < 1.05 * 25
    assert full / half == pytest.approx(2, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "head_dim", "dtype"), [("h100", 64, jnp.bfloat16), ("b200", 128, jnp.float32),
                                                  ("h100", 16, jnp.float32)])  # fmt: skip
def test_the_gpu_compiler_takes_other_heads_and_float32(gpu, head_dim, dtype, gpu_compile):
    assert temp_mib(gpu_compile, gpu, 4_096, 4, 2, head_dim, dtype) < 1.0


@pytest.mark.parametrize(("head_dim", "dtype"), [(128, jnp.bfloat16), (64, jnp.bfloat16), (128, jnp.float32)])
def test_tiles_fit_shared_memory(head_dim, dtype):
    plan = plan_for(head_dim, dtype, interpret=False)
    size = head_dim * jnp.dtype(dtype).itemsize
    for tiles, held, streamed in [
        (plan.forward, plan.forward.queries, 2 * plan.forward.keys),
        (plan.d_queries, 2 * plan.d_queries.queries, 2 * plan.d_queries.keys),
        (plan.d_keys, 2 * plan.d_keys.keys, 2 * plan.d_keys.queries),
    ]:
        assert (held + tiles.stages * streamed) * size <= 227 * 1024
        assert plan.multiple % tiles.queries == plan.multiple % tiles.keys == 0
