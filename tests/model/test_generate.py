"""Sampling with a KV cache: it equals the full forward pass, and it draws from the distribution it reports."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_architecture

from nouscoder_jax.model import generate, qwen3
from nouscoder_jax.model.rope import Yarn

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = make_architecture(
    vocab_size=40, intermediate_size=48, rope_theta=1e4, attention_bias=True, max_position_embeddings=128
)
TIME = 64


@pytest.fixture(scope="module")
def model():
    fresh = jax.jit(partial(qwen3.init, TINY))(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x) + rng.normal(0, 0.2, x.shape).astype(np.float32), fresh)


@jax.jit
def all_logits(model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = qwen3.forward(
        model, tokens, positions, jnp.ones_like(tokens), compute_dtype="float32", attention="reference", remat="none"
    )
    return qwen3.logits(hidden, qwen3.output_embedding(model))


def slots_of(prompts, *, temperature=1.0, top_p=1.0, top_k=0, limit=16, seeds=None):
    n = len(prompts)
    return generate.Slots(
        tokens=jnp.asarray([p[-1] for p in prompts], jnp.int32),
        lengths=jnp.asarray([len(p) - 1 for p in prompts], jnp.int32),
        counts=jnp.zeros(n, jnp.int32),
        limits=jnp.full(n, limit, jnp.int32),
        seeds=jnp.asarray(range(n) if seeds is None else seeds, jnp.int32),
        temperatures=jnp.full(n, temperature, jnp.float32),
        top_ps=jnp.full(n, top_p, jnp.float32),
        top_ks=jnp.full(n, top_k, jnp.int32),
        active=jnp.ones(n, bool),
    )


PREPARE = jax.jit(partial(generate.prepare, compute_dtype="float32"))
PREFILL = jax.jit(partial(generate.prefill, architecture=TINY))
DECODE = jax.jit(partial(generate.decode, architecture=TINY), static_argnames=("num_steps", "eos_ids"))


def prefilled(model, prompts):
    """Returns weights and a cache of three slots that holds the prompts' prefixes."""
    weights = PREPARE(model)
    tokens = np.zeros((3, 16), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt) - 1] = prompt[:-1]
    cache = generate.init_cache(TINY, num_slots=3, time=TIME, dtype="float32")
    return weights, PREFILL(weights, cache, jnp.asarray(tokens), jnp.arange(3))


def whole_batch(num_slots=3, time=TIME):
    """Returns a batch that reads every block of every slot."""
    num_pairs = num_slots * time // generate.BLOCK_TOKENS
    lengths = [time] * num_slots
    sizes = dict(num_rows=num_slots, num_pairs=num_pairs, num_slots=num_slots)
    return generate.batch_of(range(num_slots), lengths, **sizes)


def run(model, prompts, slots, *, num_steps=16, eos_ids=()):
    return DECODE(*prefilled(model, prompts), whole_batch(), slots, num_steps=num_steps, eos_ids=eos_ids)


PROMPTS = [(3, 1, 4, 1, 5), (9,), (2, 6, 5, 3, 5, 8, 9, 7, 9)]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 1.0, 0), (0.8, 0.9, 0), (1.3, 0.8, 9)]
)
def test_reported_logprobs_equal_a_full_forward_pass(temperature, top_p, top_k, model):
    slots = slots_of(PROMPTS, temperature=temperature, top_p=top_p, top_k=top_k)
    _, sampled = run(model, PROMPTS, slots)
    for row, prompt in enumerate(PROMPTS):
        ids = np.asarray(sampled.ids[row])
        tokens = np.zeros((1, 32), np.int32)
        tokens[0, : len(prompt) + 16] = [*prompt, *ids.tolist()]
        logits = all_logits(model, tokens)[0, len(prompt) - 1 :][:16]
        n = len(ids)
        kept = generate.truncate(logits / temperature, jnp.full(n, top_p), jnp.full(n, top_k))
        behavior = jax.nn.log_softmax(kept)[np.arange(16), ids]
        np.testing.assert_allclose(sampled.behavior_logprobs[row], behavior, atol=1e-4)


YARN = Yarn(
    factor=4.0, original_max_position_embeddings=8, beta_fast=32.0, beta_slow=1.0, attention_factor=1.14, truncate=True
)


@pytest.mark.parametrize(
    "change",
    [
        dict(num_kv_heads=4, attention_bias=False, tie_word_embeddings=False),
        dict(num_heads=5, num_kv_heads=1, rope_scaling=YARN),  # 25 tokens, past the original 8
    ],
)
def test_prefill_and_decode_equal_the_full_forward_pass_of_all_sequences_packed_in_one_row(change):
    architecture = dataclasses.replace(TINY, **change)
    model = jax.jit(partial(qwen3.init, architecture))(jax.random.key(1))
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda x: np.asarray(x) + rng.normal(0, 0.2, x.shape).astype(np.float32), model)
    num_steps = 16

    @jax.jit
    def sampled(model):
        weights = generate.prepare(model, compute_dtype="float32")
        cache = generate.init_cache(architecture, num_slots=3, time=TIME, dtype="float32")
        tokens = np.zeros((3, 16), np.int32)
        for row, prompt in enumerate(PROMPTS):
            tokens[row, : len(prompt) - 1] = prompt[:-1]
        cache = generate.prefill(weights, cache, jnp.asarray(tokens), jnp.arange(3), architecture=architecture)
        slots = slots_of(PROMPTS)
        options = dict(num_steps=num_steps, eos_ids=(), architecture=architecture)
        return generate.decode(weights, cache, whole_batch(), slots, **options)[1]

    @jax.jit
    def packed_logprobs(model, *row):
        hidden = qwen3.forward(model, *row, compute_dtype="float32", attention="reference", remat="none")
        return jax.nn.log_softmax(qwen3.logits(hidden, qwen3.output_embedding(model)))[0]

    drawn = sampled(model)
    sequences = [[*prompt, *np.asarray(ids).tolist()] for prompt, ids in zip(PROMPTS, drawn.ids, strict=True)]
    row = [
        [token for sequence in sequences for token in sequence],
        [position for sequence in sequences for position in range(len(sequence))],
        [segment for segment, sequence in enumerate(sequences, 1) for _ in sequence],
    ]
    logprobs = np.asarray(packed_logprobs(model, *(jnp.asarray([line], jnp.int32) for line in row)))
    end = 0
    for index, sequence in enumerate(sequences):
        end += len(sequence)
        predicting = np.arange(end - num_steps, end) - 1
        expected = logprobs[predicting, sequence[-num_steps:]]
        np.testing.assert_allclose(drawn.behavior_logprobs[index], expected, atol=1e-4)


def test_two_short_chunks_equal_one_long(model):
    slots = slots_of(PROMPTS)
    _, whole = run(model, PROMPTS, slots)
    cache, first = run(model, PROMPTS, slots, num_steps=8)
    slots = slots._replace(tokens=first.ids[:, -1], lengths=slots.lengths + 8, counts=slots.counts + 8)
    _, second = DECODE(PREPARE(model), cache, whole_batch(), slots, num_steps=8, eos_ids=())
    np.testing.assert_array_equal(jnp.concatenate([first.ids, second.ids], 1), whole.ids)


def test_a_sample_depends_on_its_prompt_and_seed_not_on_slot_or_neighbours(model):
    _, before = run(model, PROMPTS, slots_of(PROMPTS, seeds=[5, 6, 7]))
    turned = PROMPTS[::-1]
    neighbours = slots_of(turned, seeds=[1, 2, 5])._replace(top_ps=jnp.asarray([0.5, 1.0, 1.0], jnp.float32))
    _, after = run(model, turned, neighbours)
    np.testing.assert_array_equal(before.ids[0], after.ids[2])
    np.testing.assert_allclose(before.behavior_logprobs[0], after.behavior_logprobs[2], atol=1e-6)


def test_a_slot_stops_at_its_end_token_and_at_its_limit(model):
    _, free = run(model, PROMPTS, slots_of(PROMPTS))
    end = int(free.ids[0, 4])
    first = int(np.flatnonzero(np.asarray(free.ids[0]) == end)[0])
    limits = jnp.asarray([16, 3, 16], jnp.int32)
    _, sampled = run(model, PROMPTS, slots_of(PROMPTS)._replace(limits=limits), eos_ids=(end,))
    assert int(sampled.counts[0]) == first + 1 and not sampled.active[0]
    np.testing.assert_array_equal(sampled.ids[0, : first + 1], free.ids[0, : first + 1])
    assert int(sampled.counts[1]) <= 3 and not sampled.active[1]


def test_a_slot_outside_the_batch_keeps_its_cache(model):
    taken = [PROMPTS[1], PROMPTS[2]]
    batch = generate.batch_of([1, 2], [0, 8], num_rows=4, num_pairs=2, num_slots=3)
    slots = slots_of([*taken, (0,), (0,)])._replace(active=jnp.asarray([True, True, False, False]))
    weights, before = prefilled(model, PROMPTS)
    after, sampled = DECODE(weights, before, batch, slots, num_steps=8, eos_ids=())
    assert np.asarray(sampled.counts).tolist() == [8, 8, 0, 0]
    for old, new in zip(before.keys + before.values, after.keys + after.values, strict=True):
        np.testing.assert_array_equal(old[0], new[0])
        assert not np.array_equal(old[2], new[2])


def test_sequences_of_several_blocks_sample_the_same_in_a_batch_that_reads_only_those_they_fill(model):
    """Lengths below, at and just past the end of a block, in a padded batch of some slots and in one that reads all."""
    lengths = [generate.BLOCK_TOKENS + 1, 3, generate.BLOCK_TOKENS, 0, 2 * generate.BLOCK_TOKENS + 5]
    time = 3 * generate.BLOCK_TOKENS
    empty = generate.init_cache(TINY, num_slots=5, time=time, dtype="float32")
    cache = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), empty)
    slots = slots_of([(token,) for token in range(5)])._replace(lengths=jnp.asarray(lengths, jnp.int32))
    options = dict(num_steps=8, eos_ids=())
    _, whole = DECODE(PREPARE(model), cache, whole_batch(5, time), slots, **options)
    some = [0, 2, 3, 4]
    kept = [lengths[slot] for slot in some]
    assert generate.num_blocks(kept) == 6
    batch = generate.batch_of(some, kept, num_rows=5, num_pairs=8, num_slots=5)
    rows = jax.tree.map(lambda x: x[jnp.asarray([*some, 0])], slots)._replace(active=jnp.arange(5) < 4)
    _, few = DECODE(PREPARE(model), cache, batch, rows, **options)
    np.testing.assert_array_equal(few.ids[:4], whole.ids[jnp.asarray(some)])
    np.testing.assert_allclose(few.behavior_logprobs[:4], whole.behavior_logprobs[jnp.asarray(some)], atol=1e-5)


def test_a_copied_prefix_continues_like_its_own(model):
    _, cache = prefilled(model, PROMPTS)
    copied = generate.copy_prefix(cache, jnp.asarray([2, 2, 9]), jnp.asarray([0, 1, 9]), jnp.int32(2))
    for layer in copied.keys + copied.values:
        np.testing.assert_array_equal(layer[0], layer[2])
        np.testing.assert_array_equal(layer[1], layer[2])


def test_a_resized_cache_keeps_what_fits():
    cache = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(0), x.shape),
        generate.init_cache(TINY, num_slots=2, time=8, dtype="float32"),
    )
    there_and_back = generate.resize(generate.resize(cache, time=12), time=8)
    jax.tree.map(np.testing.assert_array_equal, there_and_back, cache)
    assert generate.resize(cache, time=4).keys[0].shape == (2, 2, 16, 4)


def test_a_chunk_that_has_no_room_leaves_the_cache_as_it_was(model):
    slots = slots_of(PROMPTS)._replace(lengths=jnp.asarray([4, TIME - 15, 8], jnp.int32))
    _, before = prefilled(model, PROMPTS)
    after, _ = run(model, PROMPTS, slots)
    np.testing.assert_array_equal(before.keys[0][1], after.keys[0][1])
    assert not np.array_equal(before.keys[0][0], after.keys[0][0])


@pytest.mark.parametrize("vocab", [1, 2, 3, 5, 40, 64, 1000])
def test_a_token_of_probability_zero_is_never_drawn_and_every_other_can_be(vocab):
    draws = 4096
    possible = np.random.default_rng(vocab).permutation(vocab)[: max(1, vocab // 3)]
    logits = np.full((draws, vocab), -np.inf, np.float32)
    logits[:, possible] = 0.0
    ids, behavior = jax.jit(generate.sample)(jnp.asarray(logits), slots_of([(0,)] * draws))
    assert set(np.asarray(ids).tolist()) == set(possible.tolist())
    np.testing.assert_allclose(behavior, -np.log(len(possible)), rtol=1e-5, atol=1e-6)


LOGITS = np.log(np.asarray([0.40, 0.30, 0.15, 0.10, 0.05], np.float32))


@pytest.mark.parametrize(
    ("top_p", "top_k", "expected"),
    [
        (1.0, 0, [0.40, 0.30, 0.15, 0.10, 0.05]),
        (0.75, 0, [0.40, 0.30, 0.15, 0, 0]),  # 0.70 does not reach 0.75
        (0.30, 0, [0.40, 0, 0, 0, 0]),  # the most probable token is always kept
        (1.0, 2, [0.40, 0.30, 0, 0, 0]),
        (0.5, 2, [0.40, 0, 0, 0, 0]),  # of the top 2 renormalised the first has 0.571
        (0.6, 2, [0.40, 0.30, 0, 0, 0]),
        (0.999, 99, [0.40, 0.30, 0.15, 0.10, 0.05]),
    ],
)
def test_truncation_keeps_the_tokens_worked_out_by_hand(top_p, top_k, expected):
    kept = generate.truncate(jnp.asarray(LOGITS)[None], jnp.asarray([top_p]), jnp.asarray([top_k]))
    expected = np.asarray(expected) / sum(expected)
    np.testing.assert_allclose(jax.nn.softmax(kept)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.5, 1.0, 0), (2.0, 0.8, 4)])
def test_sampled_frequencies_match_the_exact_distribution(temperature, top_p, top_k):
    draws = 20_000
    prompts = [(0,)] * draws
    slots = slots_of(prompts, temperature=temperature, top_p=top_p, top_k=top_k)
    logits = jnp.broadcast_to(jnp.asarray(LOGITS), (draws, 5))
    ids, behavior = jax.jit(generate.sample)(logits, slots)
    kept = generate.truncate(logits[:1] / temperature, slots.top_ps[:1], slots.top_ks[:1])
    exact = np.asarray(jax.nn.softmax(kept)[0], np.float64)
    counts = np.bincount(np.asarray(ids), minlength=5)
    possible = exact > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - draws * exact) ** 2 / np.where(possible, draws * exact, 1)).sum()
    assert chi_square < 23.5  # 4 degrees of freedom, p = 0.0001; the seeds are fixed
    np.testing.assert_allclose(np.exp(behavior), exact[np.asarray(ids)], rtol=1e-5)
