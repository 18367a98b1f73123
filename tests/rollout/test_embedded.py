"""The embedded engine: refill, determinism, reload, cancellation, failure."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_architecture

from nouscoder_jax.model import qwen3
from nouscoder_jax.model.weights import save_model
from nouscoder_jax.rollout.embedded import EmbeddedEngine, batch_sizes, bucket
from nouscoder_jax.rollout.probe import Probe
from nouscoder_jax.types import DriftError, EngineError, Prompt, Sampling, VersionSpan

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = make_architecture(vocab_size=40, intermediate_size=48, rope_theta=1e4, max_position_embeddings=128)
END = 7


def make_model(seed):
    fresh = jax.jit(partial(qwen3.init, TINY))(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + rng.normal(0, 0.2, x.shape).astype(np.float32), fresh)


@pytest.fixture(scope="module")
def model():
    return make_model(0)


def make_engine(model, **changes):
    options = dict(
        eos_ids=(END,),
        num_slots=4,
        decode_chunk_tokens=4,
        max_cache_tokens=512,
        compute_dtype="float32",
        policy_version=0,
        batch_invariant=False,
    )
    return EmbeddedEngine(model, TINY, **(options | changes))


def slow(engine):
    """The engine, with time between two chunks for weights to come."""
    run_chunk = engine._run_chunk

    def later(*arguments):
        time.sleep(0.02)
        return run_chunk(*arguments)

    engine._run_chunk = later
    return engine


def sampling(seed, **changes):
    return replace(Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=12, seed=seed), **changes)


def prompt(*ids):
    return Prompt(problem_id="p", token_ids=ids)


async def burst(engine, prompts, **changes):
    return await asyncio.gather(*(engine.generate(p, sampling(i, **changes)) for i, p in enumerate(prompts)))


async def first_tokens(engine, task):
    """Waits until `task` has tokens but is not done."""
    while engine.tokens_generated == 0 and not task.done():
        await asyncio.sleep(0.001)


def prompts_of(count):
    """Three groups of equal prompts, interleaved lengths."""
    bases = [(3, 1, 4, 1, 5), (9,), (2, 6, 5, 3, 5, 8, 9, 7, 9)]
    return [prompt(*bases[i // 4 % 3]) for i in range(count)]


def test_more_requests_than_slots_all_complete_with_exact_logprobs(model):
    async def run():
        engine = make_engine(model)
        completions = await burst(engine, prompts_of(14))
        assert engine.tokens_generated == sum(len(c.token_ids) for c in completions)
        await engine.close()
        return completions

    for p, completion in zip(prompts_of(14), asyncio.run(run()), strict=True):
        ids = completion.token_ids
        assert 1 <= len(ids) <= 12
        assert (completion.finish_reason == "stop") == (ids[-1] == END)
        assert END not in ids[:-1] and (completion.finish_reason == "stop" or len(ids) == 12)
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(p.token_ids) + len(ids)] = [*p.token_ids, *ids]
        logits = all_logits(model, padded)[0, len(p.token_ids) - 1 :][: len(ids)]
        expected = jax.nn.log_softmax(logits)[np.arange(len(ids)), np.asarray(ids)]
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def invariant(model, asked):
    """What an engine that is batch invariant gives to all that is asked at once."""

    async def run():
        engine = make_engine(model, num_slots=16, eos_ids=(), batch_invariant=True)
        completions = await asyncio.gather(*(engine.generate(*request) for request in asked))
        await engine.close()
        return completions

    return asyncio.run(run())


def random_prompt(length):
    return prompt(*np.random.default_rng(length).integers(3, 60, length).tolist())


@pytest.fixture(scope="module")
def everyone():
    """Prompts of several lengths, in caches of several blocks."""
    bases = [random_prompt(length) for length in (2, 17, 40, 70, 90, 130)]
    return [(bases[i // 4], sampling(i, max_completion_tokens=(9, 40, 90)[i % 3])) for i in range(24)]


@pytest.fixture(scope="module")
def in_full_company(model, everyone):
    return invariant(model, everyone)


@pytest.mark.parametrize("company", ["alone", "half", "other", "longer cache"])
def test_batch_invariant_a_completion_has_the_same_bits_in_any_company(model, everyone, in_full_company, company):
    """Slots drain and are refilled."""
    picked = {"alone": [13], "half": range(0, 24, 2), "other": range(8, 20), "longer cache": range(4, 24)}[company]
    others = [(random_prompt(300), sampling(99, max_completion_tokens=200))] if company == "longer cache" else []
    part = invariant(model, [*others, *(everyone[i] for i in picked)])[len(others) :]
    assert part == [in_full_company[i] for i in picked]


@jax.jit
def all_logits(model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = qwen3.forward(
        model, tokens, positions, jnp.ones_like(tokens), compute_dtype="float32", attention="reference", remat="none"
    )
    return qwen3.logits(hidden, qwen3.output_embedding(model))


def test_the_same_calls_in_the_same_order_give_the_same_bits(model):
    async def run():
        engine = make_engine(model)
        first = await burst(engine, prompts_of(11))
        second = await burst(engine, prompts_of(11)[::-1])
        await engine.close()
        return first, second

    assert asyncio.run(run()) == asyncio.run(run())


def test_a_completion_does_not_depend_on_what_else_is_generated(model):
    async def run():
        engine = make_engine(model)
        alone = await engine.generate(prompt(3, 1, 4, 1, 5), sampling(77))
        _, among = await asyncio.gather(
            burst(engine, prompts_of(6), top_p=0.5), engine.generate(prompt(3, 1, 4, 1, 5), sampling(77))
        )
        await engine.close()
        return alone, among

    alone, among = asyncio.run(run())
    assert alone.token_ids == among.token_ids
    np.testing.assert_allclose(alone.behavior_logprobs, among.behavior_logprobs, atol=1e-5)


def test_a_long_prompt_grows_the_cache_and_equals_a_full_forward_pass(model):
    long = prompt(*np.random.default_rng(0).integers(8, 40, 300).tolist())

    async def run():
        engine = make_engine(model)
        _, completion, _ = await asyncio.gather(
            burst(engine, prompts_of(3)), engine.generate(long, sampling(1)), burst(engine, prompts_of(5))
        )
        again = await burst(engine, [long, *prompts_of(2), long])  # after a pause, and once more from another slot
        await engine.close()
        return completion, again[0], again[3]

    for completion in asyncio.run(run()):
        ids = completion.token_ids
        tokens = np.zeros((1, 312), np.int32)
        tokens[0, : 300 + len(ids)] = [*long.token_ids, *ids]
        logits = all_logits(model, tokens)[0, 299:][: len(ids)]
        expected = jax.nn.log_softmax(logits)[np.arange(len(ids)), np.asarray(ids)]
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_prefixes_survive_any_order_of_refilling(model):
    """Prompts that come again after their slot was given to another must not continue the other's prefix."""
    rng = np.random.default_rng(3)
    bases = [tuple(rng.integers(8, 40, n).tolist()) for n in (4, 9, 6, 12, 5)]
    order = [prompt(*bases[i]) for i in rng.integers(0, 5, 40)]

    async def run():
        engine = make_engine(model, num_slots=3)
        crowded = [c for half in (order[:20], order[20:]) for c in await burst(engine, half)]
        alone = [await engine.generate(p, sampling(i % 20)) for i, p in enumerate(order)]
        await engine.close()
        return crowded, alone

    crowded, alone = asyncio.run(run())
    assert [c.token_ids for c in crowded] == [c.token_ids for c in alone]


def test_temperature_zero_takes_the_most_probable_token(model):
    async def run():
        engine = make_engine(model)
        completion = await engine.generate(prompt(3, 1, 4), sampling(0, temperature=0.0))
        await engine.close()
        return completion

    completion = asyncio.run(run())
    tokens = np.zeros((1, 24), np.int32)
    tokens[0, : 3 + len(completion.token_ids)] = [3, 1, 4, *completion.token_ids]
    best = np.argmax(all_logits(model, tokens)[0, 2:][: len(completion.token_ids)], -1)
    assert tuple(best.tolist()) == completion.token_ids
    np.testing.assert_allclose(completion.behavior_logprobs, 0.0, atol=1e-6)


def test_reload_takes_new_weights_and_a_completion_carries_its_oldest_version(model, tmp_path):
    save_model(make_model(5), TINY, tmp_path / "export", dtype="float32", tokenizer_dir=None)

    async def run():
        engine = slow(make_engine(model, eos_ids=()))
        running = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=400)))
        await first_tokens(engine, running)
        await engine.reload(tmp_path / "export", policy_version=1)
        assert not running.done() and engine.policy_version == 1
        after = await engine.generate(prompt(3, 1, 4), sampling(0))
        before = await running
        await engine.close()
        return before, after

    before, after = asyncio.run(run())
    assert (before.policy_version, after.policy_version) == (0, 1)
    assert after.spans == () and after.token_versions == (1,) * 12
    (first, start, swap), second = before.spans
    assert (first, start, second) == (0, 0, VersionSpan(policy_version=1, start=swap, end=400)) and 0 < swap < 400
    tokens = np.zeros((1, 24), np.int32)
    tokens[0, :15] = [3, 1, 4, *after.token_ids]
    logits = all_logits(make_model(5), tokens)[0, 2:14]
    expected = jax.nn.log_softmax(logits)[np.arange(12), np.asarray(after.token_ids)]
    np.testing.assert_allclose(after.behavior_logprobs, expected, atol=1e-4)


def test_each_span_holds_the_tokens_that_its_version_sampled(model, tmp_path):
    """One chunk a version: the logprobs of a span's first token follow from that version's last layer at the latest,
    so tokens counted to the wrong version show."""
    scaled = jax.tree.map(np.copy, model)
    scaled.norm.set_value(np.zeros_like(scaled.norm[...]))  # every token equally likely, whatever the cache holds
    save_model(scaled, TINY, tmp_path / "export", dtype="float32", tokenizer_dir=None)

    async def run():
        engine = slow(make_engine(model, eos_ids=()))
        running = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=200)))
        await first_tokens(engine, running)
        await engine.reload(tmp_path / "export", policy_version=7)
        completion = await running
        await engine.close()
        return completion

    completion = asyncio.run(run())
    uniform = np.isclose(completion.behavior_logprobs, -np.log(TINY.vocab_size), atol=1e-5)
    np.testing.assert_array_equal(uniform, np.asarray(completion.token_versions) == 7)
    assert completion.policy_version == 0


def test_memory_is_not_released_under_a_completion(model):
    async def run():
        engine = make_engine(model, eos_ids=())
        alone = await engine.generate(prompt(3, 1, 4), sampling(0))
        running = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(1, max_completion_tokens=100)))
        await asyncio.sleep(0)  # it is in the queue now
        with pytest.raises(EngineError, match="1 completions are under way"):
            await engine.release_memory()
        while engine.tokens_generated == len(alone.token_ids):  # until its first chunk is done
            await asyncio.sleep(0.001)
        running.cancel()
        await engine.release_memory()
        assert engine._cache is None
        await engine.resume_memory()
        again = await engine.generate(prompt(3, 1, 4), sampling(0))
        await engine.close()
        return alone, again

    alone, again = asyncio.run(run())
    assert alone.token_ids == again.token_ids
    np.testing.assert_allclose(alone.behavior_logprobs, again.behavior_logprobs, atol=1e-5)


def test_wrong_weights_are_refused_and_the_old_ones_kept(model, tmp_path):
    wider = replace(TINY, hidden_size=64)
    other = jax.jit(partial(qwen3.init, wider))(jax.random.key(0))
    save_model(other, wider, tmp_path / "wider", dtype="float32", tokenizer_dir=None)

    async def run():
        engine = make_engine(model)
        before = await engine.generate(prompt(3, 1, 4), sampling(0))
        for path in ("wider", "nowhere"):
            with pytest.raises(EngineError, match="version 1 not taken"):
                await engine.reload(tmp_path / path, policy_version=1)
        after = await engine.generate(prompt(3, 1, 4), sampling(0))
        await engine.close()
        return before, after

    before, after = asyncio.run(run())
    assert before == after and after.policy_version == 0


def test_cancelling_a_call_frees_its_slot(model):
    async def run():
        engine = make_engine(model, num_slots=1, eos_ids=())
        endless = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=500)))
        waiting = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=500)))
        await first_tokens(engine, endless)
        endless.cancel()
        waiting.cancel()
        short = await engine.generate(prompt(3, 1, 4), sampling(0))
        assert engine.tokens_generated < 250
        await engine.close()
        return short

    assert len(asyncio.run(run()).token_ids) == 12


def test_a_failure_in_the_scheduler_reaches_every_caller(model, monkeypatch):
    async def run():
        engine = make_engine(model, num_slots=1)

        def broken(*_):
            raise RuntimeError("device lost")

        monkeypatch.setattr(engine, "_run_chunk", broken)
        results = await asyncio.gather(
            *(engine.generate(prompt(3, 1, 4), sampling(i)) for i in range(3)), return_exceptions=True
        )
        assert all(isinstance(r, EngineError) and "device lost" in str(r) for r in results)
        with pytest.raises(EngineError, match="device lost"):
            await engine.generate(prompt(3, 1, 4), sampling(0))
        await engine.close()

    asyncio.run(run())


def test_closing_fails_pending_calls(model):
    async def run():
        engine = make_engine(model, eos_ids=())
        pending = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=400)))
        await first_tokens(engine, pending)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await pending

    asyncio.run(run())


def test_a_request_that_never_fits_is_refused_at_once(model):
    async def run():
        engine = make_engine(model, max_cache_tokens=10)
        with pytest.raises(EngineError, match="exceed"):
            await engine.generate(prompt(3, 1, 4), sampling(0))
        await engine.close()

    asyncio.run(run())


def test_the_event_loop_goes_on_while_tokens_are_generated(model):
    async def run():
        engine = make_engine(model, eos_ids=())
        task = asyncio.create_task(engine.generate(prompt(3, 1, 4), sampling(0, max_completion_tokens=200)))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await engine.close()
        return turns

    assert asyncio.run(run()) > 200


def test_buckets_grow_by_at_most_a_half():
    sizes = sorted({bucket(n) for n in range(1, 3000)})
    assert sizes[:7] == [64, 96, 128, 192, 256, 384, 512]
    assert all(bucket(size) == size and bucket(size + 1) <= size * 1.5 for size in sizes)


@pytest.mark.parametrize("num_slots", [1, 4, 8, 12, 32, 64, 100])
def test_a_batch_holds_what_it_must_in_few_shapes(num_slots):
    shapes = set()
    for sequences in range(1, num_slots + 1):
        for blocks in range(0, 4 * sequences + 1):
            rows, room = batch_sizes(sequences, blocks, num_slots=num_slots, all_rows=False)
            assert sequences <= rows <= num_slots and blocks <= room
            shapes.add((rows, room))
    assert len(shapes) <= 8


def test_a_drain_computes_fewer_rows_and_continues_the_same_sequences(model):
    """One long request among short ones: after them it decodes in a batch of fewer rows."""

    async def run():
        engine = make_engine(model, num_slots=32, eos_ids=())
        alone = await engine.generate(prompt(3, 1, 4), sampling(7, max_completion_tokens=150))
        others = [engine.generate(p, sampling(i)) for i, p in enumerate(prompts_of(31))]
        *_, among = await asyncio.gather(
            *others, engine.generate(prompt(3, 1, 4), sampling(7, max_completion_tokens=150))
        )
        await engine.close()
        return alone, among

    alone, among = asyncio.run(run())
    assert alone.token_ids == among.token_ids
    np.testing.assert_allclose(alone.behavior_logprobs, among.behavior_logprobs, atol=1e-5)


def test_it_is_proven_to_compute_what_a_full_forward_pass_does(model):
    drawn = np.random.default_rng(0)
    sequences = tuple(tuple(drawn.integers(0, TINY.vocab_size, length).tolist()) for length in (40, 7))
    logprobs = []
    for sequence in sequences:
        scores = jax.nn.log_softmax(all_logits(model, jnp.asarray([sequence]))[0])
        logprobs.append(tuple(float(scores[place, token]) for place, token in enumerate(sequence[1:])))
    probe = Probe(sequences=sequences, logprobs=tuple(logprobs), policy_version=0, max_mean=1e-4, max_largest=1e-3)

    async def run(probe):
        engine = make_engine(model)
        try:
            return await engine.prove(probe)
        finally:
            await engine.close()

    drift = asyncio.run(run(probe))
    assert 0 <= drift.mean <= drift.largest < 1e-4
    other = replace(probe, logprobs=tuple(tuple(one - 0.7 for one in row) for row in logprobs))
    with pytest.raises(DriftError, match=r"^the engine, embedded \(JAX"):
        asyncio.run(run(other))
