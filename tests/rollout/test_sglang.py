"""The SGLang engine against real servers on the CPU, while nothing breaks."""

import asyncio
import dataclasses

import httpx
import numpy as np
import pytest
from real_servers import (
    EOS,
    PROMPT,
    VOCABULARY,
    connect,
    free_port,
    reference_logprobs,
    running,
    sampling,
    tokens_held,
    until,
    with_engine,
)
from safetensors.numpy import load_file, save_file

from nouscoder_jax.config import UserError
from nouscoder_jax.planning.head import JSON_BYTES_PER_TOKEN
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.probe import Probe
from nouscoder_jax.rollout.sglang_calls import generate_body
from nouscoder_jax.types import DriftError, EngineError, Prompt, VersionSpan

pytestmark = [
    pytest.mark.timeout(900),  # a server starts in 15 s, on a busy machine in minutes
]

MODES = ("finish", "abort", "retract", "in_place")
LONG_TOKENS = 1200
LONG = {"max_completion_tokens": LONG_TOKENS}


def span_logprobs(checkpoints, completion, versions):
    """transformers' logprobs of every token under the version that the completion says sampled it."""
    by_version = {
        version: reference_logprobs(checkpoints[name].model, completion.token_ids) for version, name in versions.items()
    }
    return [by_version[version][i] for i, version in enumerate(completion.token_versions)]


async def reload_midway(engine, url, weights, *, seeds=range(2), **changes):
    """Completions during which new weights come, as version 1."""
    drawn = [asyncio.create_task(engine.generate(PROMPT, sampling(seed=seed, **LONG, **changes))) for seed in seeds]
    # All have begun, and none can have ended: each holds its prompt and some of its tokens.
    await until(lambda: running(url) == len(drawn) and tokens_held(url) >= len(drawn) * (len(PROMPT.token_ids) + 5))
    await engine.reload(weights, policy_version=1)
    return await asyncio.gather(*drawn)


def test_an_address_where_nothing_answers_is_one_line_with_the_fix():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as error:
        connect(url)
    assert f"no SGLang server answers at {url}" in str(error.value) and "\n" not in str(error.value)
    assert "--rollout.urls" in str(error.value)


def test_a_server_whose_context_is_too_short_is_named_with_the_fix(server):
    with pytest.raises(UserError, match=f"{server.url} takes 2048 tokens .* --context-length 2049"):
        connect(server.url, context_tokens=2049)


def test_it_is_an_engine(server):
    async def facts(engine):
        return isinstance(engine, Engine), engine.policy_version, engine.num_slots, engine.name

    is_engine, version, num_slots, name = with_engine(server.url, facts)
    assert (is_engine, version, num_slots) == (True, -1, 8) and "1 server" in name


def test_whatever_a_server_holds_nothing_is_asked_before_weights_are_loaded(server):
    with pytest.raises(EngineError, match="no weights have been loaded"):
        with_engine(server.url, lambda engine: engine.generate(PROMPT, sampling()))


def test_logprobs_are_those_of_the_model(server, checkpoints):
    one = checkpoints["a"]
    completion = with_engine(server.url, lambda engine: engine.generate(PROMPT, sampling()), weights=one.folder)
    np.testing.assert_allclose(
        completion.behavior_logprobs, reference_logprobs(one.model, completion.token_ids), atol=1e-4
    )
    assert (completion.policy_version, completion.spans) == (0, ())
    assert len(completion.token_ids) == 12 or completion.finish_reason == "stop"


def test_a_server_of_a_converted_checkpoint_gives_transformers_logprobs(server, converted):
    """The servers of these tests have started from it."""
    assert len(list(converted.folder.glob("*.safetensors"))) > 1
    completion = with_engine(server.url, lambda engine: engine.generate(PROMPT, sampling()), weights=converted.folder)
    expected = reference_logprobs(converted.model, completion.token_ids)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_an_answer_has_as_many_bytes_a_token_as_the_plan_counts(server):
    def size(num_tokens: int) -> int:
        body = generate_body(
            PROMPT.token_ids, sampling(), num_tokens=num_tokens, rid="", stop_token_ids=(), cache_key="size"
        )
        body["sampling_params"]["ignore_eos"] = True
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=300).raise_for_status()
        assert len(answer.json()["output_ids"]) == num_tokens
        return len(answer.content)

    found = (size(300) - size(100)) / 200
    # The plan counts for ids of up to six digits, twice a token; these have up to three.
    assert JSON_BYTES_PER_TOKEN - 8 <= found <= JSON_BYTES_PER_TOKEN, found


def test_behavior_logprobs_are_those_after_temperature_and_truncation(server, checkpoints):
    one, cut = checkpoints["a"], {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    completion = with_engine(server.url, lambda engine: engine.generate(PROMPT, sampling(**cut)), weights=one.folder)
    expected = reference_logprobs(one.model, completion.token_ids, **cut)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_a_completion_ends_at_an_end_token_or_is_cut(server, checkpoints):
    async def many(engine):
        requests = (engine.generate(PROMPT, sampling(max_completion_tokens=64, seed=seed)) for seed in range(16))
        return await asyncio.gather(*requests), engine.tokens_generated

    completions, tokens_generated = with_engine(server.url, many, weights=checkpoints["a"].folder)
    assert tokens_generated == sum(len(completion.token_ids) for completion in completions)
    for completion in completions:
        stopped = completion.finish_reason == "stop"
        assert (completion.token_ids[-1] == EOS) == stopped
        assert stopped or len(completion.token_ids) == 64
        assert EOS not in completion.token_ids[:-1]


def test_a_cancelled_request_stops_on_the_server(server, checkpoints):
    async def cancel(engine):
        task = asyncio.create_task(engine.generate(PROMPT, sampling(max_completion_tokens=2000)))
        await until(lambda: running(server.url) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: running(server.url) == 0)
        return task.cancelled()

    assert with_engine(server.url, cancel, weights=checkpoints["a"].folder, eos_token_ids=())


def test_closing_fails_what_is_under_way_and_stops_it_on_the_server(server, checkpoints):
    async def close(engine):
        task = asyncio.create_task(engine.generate(PROMPT, sampling(max_completion_tokens=2000)))
        await until(lambda: running(server.url) == 1)
        await engine.close()
        (failure,) = await asyncio.gather(task, return_exceptions=True)
        await until(lambda: running(server.url) == 0)
        return failure

    failure = with_engine(server.url, close, weights=checkpoints["a"].folder, eos_token_ids=())
    assert isinstance(failure, EngineError) and "closed" in str(failure)


def test_a_prompt_longer_than_the_context_is_an_engine_error(server, checkpoints):
    long = Prompt(problem_id="p", token_ids=(7,) * 2100)
    with pytest.raises(EngineError, match="answered 400"):
        with_engine(server.url, lambda engine: engine.generate(long, sampling()), weights=checkpoints["a"].folder)


def test_no_server_gets_more_requests_at_once_than_it_has_slots(server, checkpoints):
    async def watch(engine):
        drawn = [
            asyncio.create_task(engine.generate(PROMPT, sampling(seed=seed, max_completion_tokens=150)))
            for seed in range(6)
        ]
        most = 0
        while not all(task.done() for task in drawn):
            most = max(most, await asyncio.to_thread(running, server.url))
        return most

    most = with_engine(server.url, watch, weights=checkpoints["a"].folder, num_slots=2, eos_token_ids=())
    assert most == 2


def test_two_servers_share_the_requests(two_servers, checkpoints):
    async def watch(engine):
        drawn = [
            asyncio.create_task(engine.generate(PROMPT, sampling(seed=seed, max_completion_tokens=600)))
            for seed in range(4)
        ]
        await until(lambda: [running(server.url) for server in two_servers] == [2, 2])
        await asyncio.gather(*drawn)
        return engine.num_slots

    urls = [server.url for server in two_servers]
    assert with_engine(urls, watch, weights=checkpoints["a"].folder, eos_token_ids=()) == 16


def test_new_weights_are_served_under_their_version(server, checkpoints):
    async def reload(engine):
        await engine.reload(checkpoints["b"].folder, policy_version=7)
        return await engine.generate(PROMPT, sampling()), engine.policy_version

    completion, version = with_engine(server.url, reload, weights=checkpoints["a"].folder)
    assert completion.policy_version == version == 7
    expected = reference_logprobs(checkpoints["b"].model, completion.token_ids)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_finish_lets_completions_end_with_the_weights_they_began_with(server, checkpoints):
    async def midway(engine):
        return await reload_midway(engine, server.url, checkpoints["b"].folder)

    changes = {"on_new_weights": "finish", "eos_token_ids": (), "weights": checkpoints["a"].folder}
    for completion in with_engine(server.url, midway, **changes):
        assert (completion.policy_version, completion.spans, len(completion.token_ids)) == (0, (), LONG_TOKENS)


@pytest.mark.parametrize("mode", ["abort", "retract"])
def test_a_completion_goes_on_under_new_weights_and_names_the_version_of_every_token(server, checkpoints, mode):
    async def midway(engine):
        completions = await reload_midway(engine, server.url, checkpoints["b"].folder)
        return completions, engine.tokens_generated

    changes = {"on_new_weights": mode, "eos_token_ids": (), "weights": checkpoints["a"].folder}
    completions, tokens_generated = with_engine(server.url, midway, **changes)
    assert tokens_generated == LONG_TOKENS * len(completions)
    for completion in completions:
        (old, start, border), (new, again, end) = completion.spans
        assert (old, start, again, new, end) == (0, 0, border, 1, LONG_TOKENS)
        assert completion.policy_version == 0 and 0 < border < LONG_TOKENS
        expected = span_logprobs(checkpoints, completion, {0: "a", 1: "b"})
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-3)


def test_in_place_goes_on_with_the_old_keys_and_values(server, checkpoints):
    async def midway(engine):
        return await reload_midway(engine, server.url, checkpoints["b"].folder)

    changes = {"on_new_weights": "in_place", "eos_token_ids": (), "weights": checkpoints["a"].folder}
    for completion in with_engine(server.url, midway, **changes):
        (old, start, border), (new, _, end) = completion.spans
        assert (old, start, new, end) == (0, 0, 1, LONG_TOKENS) and 0 < border < LONG_TOKENS
        expected = reference_logprobs(checkpoints["a"].model, completion.token_ids[:border])
        np.testing.assert_allclose(completion.behavior_logprobs[:border], expected, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_to_new_weights_takes_nothing_from_the_old_ones_cache(server, checkpoints, mode):
    long = Prompt(problem_id="p", token_ids=tuple(range(10, 110)))

    async def before_and_after(engine):
        await engine.generate(long, sampling(max_completion_tokens=1))  # its keys and values stay in the cache
        await engine.reload(checkpoints["b"].folder, policy_version=1)
        return await engine.generate(long, sampling())

    completion = with_engine(server.url, before_and_after, weights=checkpoints["a"].folder, on_new_weights=mode)
    expected = reference_logprobs(checkpoints["b"].model, completion.token_ids, prompt=long)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_a_truncated_completion_keeps_its_behavior_logprobs_across_new_weights(server, checkpoints):
    cut = {"top_p": 0.9, "top_k": 30}

    async def midway(engine):
        return await reload_midway(engine, server.url, checkpoints["b"].folder, **cut)

    changes = {"eos_token_ids": (), "weights": checkpoints["a"].folder}
    for completion in with_engine(server.url, midway, **changes):
        border = completion.spans[0].end
        assert completion.spans == (VersionSpan(0, 0, border), VersionSpan(1, border, LONG_TOKENS))
        old = reference_logprobs(checkpoints["a"].model, completion.token_ids[:border], **cut)
        np.testing.assert_allclose(completion.behavior_logprobs[:border], old, atol=1e-3)
        prompt = dataclasses.replace(PROMPT, token_ids=PROMPT.token_ids + completion.token_ids[:border])
        new = reference_logprobs(checkpoints["b"].model, completion.token_ids[border:], prompt=prompt, **cut)
        np.testing.assert_allclose(completion.behavior_logprobs[border:], new, atol=1e-3)


@pytest.mark.parametrize("fault", ["a tensor is missing", "a tensor is too much", "a shape is wrong"])
def test_weights_of_another_layout_are_refused_and_the_old_ones_served(server, checkpoints, tmp_path, fault):
    weights = load_file(checkpoints["b"].folder / "model.safetensors")
    if fault == "a tensor is missing":
        del weights["model.norm.weight"]
    elif fault == "a tensor is too much":
        weights["model.more.weight"] = np.zeros(3, np.float32)
    else:
        weights["model.norm.weight"] = np.zeros(65, np.float32)
    save_file(weights, tmp_path / "model.safetensors")

    async def reload(engine):
        with pytest.raises(EngineError, match=r"model\.(norm|more)\.weight"):
            await engine.reload(tmp_path, policy_version=9)
        return await engine.generate(PROMPT, sampling()), engine.policy_version

    completion, version = with_engine(server.url, reload, weights=checkpoints["a"].folder)
    assert completion.policy_version == version == 0
    expected = reference_logprobs(checkpoints["a"].model, completion.token_ids)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_a_server_that_a_dead_trainer_left_paused_goes_on(server, checkpoints):
    httpx.post(f"{server.url}/pause_generation", json={"mode": "retract"}, timeout=30).raise_for_status()
    completion = with_engine(
        server.url, lambda engine: engine.generate(PROMPT, sampling()), weights=checkpoints["a"].folder
    )
    assert completion.token_ids


def test_memory_is_given_back_between_requests_and_the_weights_are_still_right(server, checkpoints):
    async def turns(engine):
        await engine.release_memory()
        waiting = asyncio.create_task(engine.generate(PROMPT, sampling()))
        await asyncio.sleep(0.3)
        early = waiting.done()
        await engine.resume_memory()
        return early, await waiting, await engine.generate(PROMPT, sampling())

    early, *completions = with_engine(server.url, turns, weights=checkpoints["a"].folder)
    assert not early
    for completion in completions:
        expected = reference_logprobs(checkpoints["a"].model, completion.token_ids)
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_memory_is_not_given_back_while_requests_run(server, checkpoints):
    async def both(engine):
        task = asyncio.create_task(engine.generate(PROMPT, sampling(**LONG)))
        await until(lambda: running(server.url) == 1)
        with pytest.raises(EngineError, match="1 requests run"):
            await engine.release_memory()
        return await task

    assert with_engine(server.url, both, weights=checkpoints["a"].folder, eos_token_ids=()).token_ids


def probe_of(one, *, off=0.0, **bounds):
    """What transformers says of two sequences, or `off` more; the vocabulary's last id is one that SGLang misnames."""
    sequences = ((*PROMPT.token_ids, 9, VOCABULARY - 1, 200), (4, 5, 6))
    logprobs = [
        reference_logprobs(one.model, sequence[1:], prompt=dataclasses.replace(PROMPT, token_ids=sequence[:1]))
        for sequence in sequences
    ]
    moved = tuple(tuple(float(logprob) + off for logprob in row) for row in logprobs)
    bounds = {"max_mean": 0.0, "max_largest": 0.0} | bounds
    return Probe(sequences=sequences, logprobs=moved, policy_version=0, **bounds)


def test_a_server_is_proven_to_compute_what_the_trainer_does(server, checkpoints):
    one = checkpoints["a"]
    drift = with_engine(server.url, lambda engine: engine.prove(probe_of(one, max_largest=1e-3)), weights=one.folder)
    assert 0 <= drift.mean <= drift.largest < 1e-4


def test_a_server_that_computes_something_else_is_named(server, checkpoints):
    one = checkpoints["a"]
    with pytest.raises(DriftError, match=f"^SGLang server {server.url} and the trainer both have policy version 0"):
        with_engine(
            server.url, lambda engine: engine.prove(probe_of(one, off=0.7, max_largest=0.3)), weights=one.folder
        )
