"""The SGLang engine against real servers on the CPU that are killed, stopped, changed behind its back, or lied for."""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from real_servers import PROMPT, connect, reference_logprobs, running, sampling, under_way, until, with_engine
from safetensors.numpy import load_file, save_file

from nouscoder_jax.types import EngineError

pytestmark = [
    pytest.mark.timeout(900),  # three starts of a server, on a machine that may be busy
]

GREEDY = {"top_k": 1, "max_completion_tokens": 600}
"""The one completion that a prompt has, whatever else is in its batch."""


def prompts(count):
    return [PROMPT.__class__(problem_id="p", token_ids=(10 + i, 7, 9)) for i in range(count)]


def start_all(engine, count=4, **changes):
    return [asyncio.create_task(engine.generate(prompt, sampling(**(GREEDY | changes)))) for prompt in prompts(count)]


@dataclass
class Drawn:
    """What an engine brought, and what it said."""

    said: list[str]
    outcomes: list
    tokens_generated: int
    seconds: float = 0.0


@pytest.fixture(scope="module")
def killed(checkpoints, processes):
    """The second server is killed while three engines wait for it, and started again on the same port: what an engine
    of both servers brought, one that waits 2 s for a server, and one that waits longer."""
    return asyncio.run(kill_and_start_again(checkpoints["a"].folder, processes["first"], processes["second"]))


async def kill_and_start_again(folder, first, second):
    for process in (first, second):
        process.start()
    for process in (first, second):
        process.wait()
    urls = {"both": [first.url, second.url], "impatient": [second.url], "patient": [second.url]}
    said = {name: [] for name in urls}
    engines = {
        name: connect(
            *urls[name],
            outage_limit_s=2.0 if name == "impatient" else 280.0,
            eos_token_ids=(),
            say=said[name].append,
        )
        for name in urls
    }
    for engine in engines.values():
        await engine.reload(folder, policy_version=0)
    before = {}

    def draw_all():
        before.update({name: engine.tokens_generated for name, engine in engines.items()})
        return [task for engine in engines.values() for task in start_all(engine)]

    tasks = await under_way(draw_all, lambda: running(second.url) == 10)  # all that it ever has at once
    second.kill()
    began, drawn = time.monotonic(), {}
    for name, engine in engines.items():
        own, tasks = tasks[:4], tasks[4:]
        if name == "patient":
            await asyncio.to_thread(second.start)  # it serves the checkpoint that it starts with, under another name
        outcomes = await asyncio.gather(*own, return_exceptions=True)
        if name == "impatient":
            outcomes += await asyncio.gather(*start_all(engine, count=1), return_exceptions=True)
        seconds = time.monotonic() - began
        drawn[name] = Drawn(said[name], outcomes, engine.tokens_generated - before[name], seconds)
        await engine.close()
    return drawn


@pytest.fixture(scope="module")
def undisturbed(killed, checkpoints, processes):
    """The token ids that `start_all` brings while nothing breaks, with the weights of checkpoint a."""

    async def draw(engine):
        return [completion.token_ids for completion in await asyncio.gather(*start_all(engine))]

    return with_engine(processes["first"].url, draw, weights=checkpoints["a"].folder, eos_token_ids=())


@contextlib.contextmanager
def stopped(process):
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


class Liar:
    """A real HTTP server in front of a real SGLang server; answers to the paths of `lies` are changed by them."""

    def __init__(self, url):
        self.lies = {}
        self.posted = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._pass("GET", None)

            def do_POST(self):
                self._pass("POST", self.rfile.read(int(self.headers["content-length"])))

            def _pass(self, method, body):
                liar.posted.append((self.path, json.loads(body or b"null")))
                with contextlib.suppress(httpx.HTTPError, OSError):
                    headers = {"content-type": "application/json"} if body else {}
                    answer = httpx.request(method, url + self.path, content=body, headers=headers, timeout=60)
                    content = liar.lies.get(self.path, lambda content: content)(answer.content)
                    self.send_response(answer.status_code)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, format, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def liar(server):
    made = Liar(server.url)
    yield made
    made.close()


def changed(change):
    """A lie that changes the meta_info of an answer."""

    def lie(content):
        answer = json.loads(content)
        change(answer["meta_info"])
        return json.dumps(answer).encode()

    return lie


# ---- servers that die, hang, come back


def test_of_two_servers_one_is_killed_and_no_completion_is_lost_or_counted_twice(killed, undisturbed, processes):
    drawn = killed["both"]
    assert [completion.token_ids for completion in drawn.outcomes] == undisturbed
    assert drawn.tokens_generated == sum(map(len, undisturbed))
    (line,) = drawn.said
    assert f"{processes['second'].url} is lost" in line and "2 requests are asked again" in line


def test_a_server_that_never_comes_back_ends_every_call_with_what_it_last_said(killed, processes):
    drawn, url = killed["impatient"], processes["second"].url
    assert len(drawn.outcomes) == 5 and all(isinstance(outcome, EngineError) for outcome in drawn.outcomes)
    for outcome in drawn.outcomes:
        assert f"no SGLang server for 2 s (rollout.outage_limit_s); they last said: {url}" in str(outcome)
    assert "Connect" in str(drawn.outcomes[0])
    assert drawn.seconds > 1.9
    assert f"{url} is lost" in drawn.said[0]
    assert drawn.said[1:] == ["no SGLang server is left; waiting up to 2 s for one"]


def test_a_server_that_is_started_again_gets_its_weights_and_then_the_same_requests(killed, undisturbed):
    drawn = killed["patient"]
    assert [completion.token_ids for completion in drawn.outcomes] == undisturbed
    assert {completion.policy_version for completion in drawn.outcomes} == {0}
    assert drawn.tokens_generated == sum(map(len, undisturbed))
    assert "is back after" in drawn.said[-1] and "version 0 was sent to it again" in drawn.said[-1]


@pytest.mark.parametrize("what", ["the server", "its scheduler"])
def test_of_two_servers_one_hangs_and_comes_back(two_servers, checkpoints, undisturbed, what):
    hanging, said = two_servers[1], []

    async def hang(engine):
        pid, before = hanging.scheduler(), 0

        def draw():
            nonlocal before
            before = engine.tokens_generated
            return start_all(engine)

        drawn = await under_way(draw, lambda: running(hanging.url) >= 1)
        hanging.signal(signal.SIGSTOP) if what == "the server" else os.kill(pid, signal.SIGSTOP)
        try:
            completions = await asyncio.gather(*drawn)
        finally:
            hanging.signal(signal.SIGCONT)
        await until(lambda: any("is back after" in line for line in said))
        await until(lambda: running(hanging.url) == 0)  # what it was computing for nobody
        return completions, engine.tokens_generated - before

    changes = {"eos_token_ids": (), "say": said.append, "weights": checkpoints["a"].folder, "server_timeout_s": 4.0}
    completions, tokens_generated = with_engine([server.url for server in two_servers], hang, **changes)
    assert [completion.token_ids for completion in completions] == undisturbed
    assert tokens_generated == sum(map(len, undisturbed))
    assert any(f"{hanging.url} is lost" in line and "no answer within 4.0 s" in line for line in said)


def test_a_sole_server_that_hangs_for_ever_ends_every_call_with_what_was_waited_for(server, checkpoints):
    said = []

    async def hang(engine):
        with stopped(server):
            return await asyncio.gather(*start_all(engine), return_exceptions=True)

    changes = {"weights": checkpoints["a"].folder, "server_timeout_s": 2.0, "outage_limit_s": 2.0, "say": said.append}
    for outcome in with_engine(server.url, hang, **changes):
        assert isinstance(outcome, EngineError)
        assert "no SGLang server for 2 s" in str(outcome) and "no answer within 2.0 s" in str(outcome)
    assert any(f"{server.url} is lost" in line for line in said)


def test_weights_that_come_while_a_server_hangs_reach_it_before_its_next_request(two_servers, checkpoints):
    async def hang(engine):
        with stopped(two_servers[1]):
            await engine.reload(checkpoints["b"].folder, policy_version=1)
            alone = await engine.generate(PROMPT, sampling())
        await until(lambda: model_name(two_servers[1].url).startswith("1@"))
        both = await asyncio.gather(*(engine.generate(PROMPT, sampling(seed=seed)) for seed in range(4)))
        return [alone, *both]

    changes = {"weights": checkpoints["a"].folder, "server_timeout_s": 4.0}
    for completion in with_engine([server.url for server in two_servers], hang, **changes):
        assert completion.policy_version == 1
        expected = reference_logprobs(checkpoints["b"].model, completion.token_ids)
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def model_name(url):
    return httpx.get(f"{url}/model_info", timeout=10).json()["weight_version"]


def test_a_request_that_takes_too_long_goes_on_elsewhere_from_its_tokens(two_servers, checkpoints):
    async def slow(engine):
        completion = await engine.generate(PROMPT, sampling(max_completion_tokens=1500, top_k=1))
        return completion, engine.tokens_generated

    changes = {"eos_token_ids": (), "weights": checkpoints["a"].folder, "request_timeout_s": 0.2}
    with pytest.raises(EngineError, match=r"a completion failed 2 times: .* took longer than 0.2 s; .* than 0.2 s"):
        with_engine([server.url for server in two_servers], slow, **changes)
    asyncio.run(until(lambda: [running(server.url) for server in two_servers] == [0, 0]))


# ---- answers that cannot be used


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (lambda content: b"<html>busy</html>", "not JSON"),
        (lambda content: b'{"text": "hello"}', "without 'meta_info'"),
        (lambda content: b"[]", "without"),
        (changed(lambda meta: meta["output_token_logprobs"].pop()), "answered 11 logprobs for 12 tokens"),
        (changed(lambda meta: meta["output_token_logprobs"][3].__setitem__(0, float("nan"))), "one finite"),
        (changed(lambda meta: meta["weight_versions"][0].__setitem__("end", 5)), "versions for other ones"),
        (changed(lambda meta: meta["finish_reason"].__setitem__("type", "tired")), "finish 'tired'"),
    ],
)
def test_garbage_is_refused_by_name_and_asked_again_at_most_twice(liar, checkpoints, lie, named):
    said = []

    async def ask(engine):
        liar.lies["/generate"] = lie
        with pytest.raises(EngineError, match=f"a completion failed 3 times: {liar.url}.*{named}"):
            await engine.generate(PROMPT, sampling(seed=7))
        del liar.lies["/generate"]
        return await engine.generate(PROMPT, sampling(seed=8)), engine.tokens_generated

    changes = {"weights": checkpoints["a"].folder, "say": said.append, "eos_token_ids": ()}
    completion, tokens_generated = with_engine(liar.url, ask, **changes)
    assert tokens_generated == len(completion.token_ids) == 12  # nothing of what was refused
    asked = [body["sampling_params"] for path, body in liar.posted if path == "/generate"]
    assert [parameters["sampling_seed"] for parameters in asked] == [7, 7, 7, 8]  # asked again, it is the same request
    assert len(said) == 1 and named in said[0]


def test_of_two_servers_one_that_answers_garbage_is_gone_round(liar, two_servers, checkpoints):
    liar.lies["/generate"] = lambda content: b"garbage"

    async def ask(engine):
        return await asyncio.gather(*(engine.generate(PROMPT, sampling(seed=seed)) for seed in range(4)))

    urls = [liar.url, two_servers[1].url]
    assert all(completion.token_ids for completion in with_engine(urls, ask, weights=checkpoints["a"].folder))


def test_tokens_of_strange_weights_are_refused_and_the_server_is_given_the_right_ones(server, checkpoints):
    said = []

    async def behind_its_back(engine):
        body = {"model_path": str(checkpoints["b"].folder), "weight_version": "stranger", "flush_cache": False}
        update = httpx.post(f"{server.url}/update_weights_from_disk", json=body, timeout=60)
        update.raise_for_status()
        return await engine.generate(PROMPT, sampling())

    completion = with_engine(server.url, behind_its_back, weights=checkpoints["a"].folder, say=said.append)
    assert completion.policy_version == 0
    expected = reference_logprobs(checkpoints["a"].model, completion.token_ids)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)
    assert any(server.url in line and "'stranger', which this run did not load" in line for line in said)
    assert "version 0 was sent to it again" in said[-1]


# ---- weights that are not what they should be


def tampered(rank_checksums):
    def lie(content):
        answer = json.loads(content)
        rank_checksums(answer["ranks"][0]["checksums"])
        return json.dumps(answer).encode()

    return lie


@pytest.mark.parametrize("mode", ["finish", "abort", "retract", "in_place"])
def test_a_checksum_that_is_not_that_of_the_files_is_an_error_that_names_server_and_tensor(liar, checkpoints, mode):
    tensor = "model.layers.1.self_attn.qkv_proj.weight"

    async def reload(engine):
        liar.lies["/weights_checker"] = tampered(lambda found: found.__setitem__(tensor, "0" * 16))
        with pytest.raises(EngineError, match=f"{liar.url} has other weights .* its {tensor} has .* the files hold"):
            await engine.reload(checkpoints["b"].folder, policy_version=1)
        del liar.lies["/weights_checker"]
        return await engine.generate(PROMPT, sampling()), engine.policy_version

    completion, version = with_engine(liar.url, reload, weights=checkpoints["a"].folder, on_new_weights=mode)
    assert completion.policy_version == version == 0
    expected = reference_logprobs(checkpoints["a"].model, completion.token_ids)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_weights_that_change_in_the_file_after_they_were_checked_are_noticed(server, checkpoints, tmp_path):
    """SGLang reports success; the file has been torn between the two reads, here simply by another tensor's bytes."""
    weights = load_file(checkpoints["b"].folder / "model.safetensors")
    folder = tmp_path / "w"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")

    async def reload(engine):
        await engine.reload(folder, policy_version=1)
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
        save_file(weights, folder / "model.safetensors")
        body = {"model_path": str(folder), "weight_version": model_name(server.url), "flush_cache": False}
        httpx.post(f"{server.url}/update_weights_from_disk", json=body, timeout=60).raise_for_status()
        return await engine._server_weights.holds(engine._fleet.workers[0], engine._weights)

    assert with_engine(server.url, reload, weights=checkpoints["a"].folder) is False


def test_two_servers_that_hold_different_weights_are_named(liar, two_servers, checkpoints):
    tensor = "model.norm.weight"
    liar.lies["/weights_checker"] = tampered(lambda found: found.__setitem__(tensor, "1" * 16))
    liar.lies["/server_info"] = lambda content: json.dumps(json.loads(content) | {"quantization": "made up"}).encode()
    other = Liar(two_servers[1].url)
    other.lies["/server_info"] = liar.lies["/server_info"]  # neither can be compared with the files
    try:
        with pytest.raises(EngineError, match=f"its {tensor} has checksum .*, http://127.0.0.1:[0-9]+ has "):
            with_engine([liar.url, other.url], lambda engine: engine.close(), weights=checkpoints["a"].folder)
    finally:
        other.close()


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_server_is_never_left_paused_by_weights_that_it_cannot_load(liar, server, checkpoints, mode):
    async def reload(engine):
        httpx.get(f"{server.url}/ready", timeout=10).raise_for_status()
        liar.lies["/update_weights_from_disk"] = lambda content: b"garbage"
        with pytest.raises(EngineError, match="not JSON"):
            await engine.reload(checkpoints["b"].folder, policy_version=1)
        await until(lambda: httpx.get(f"{server.url}/ready", timeout=10).status_code == 200)
        return await engine.generate(PROMPT, sampling())

    # the lie stays: the old weights cannot be sent again either, so the call fails by the outage, not by hanging
    with pytest.raises(EngineError, match="no SGLang server for 1 s"):
        with_engine(liar.url, reload, weights=checkpoints["a"].folder, on_new_weights=mode, outage_limit_s=1.0)
    assert ("/continue_generation", {}) in liar.posted


# ---- behind SGLang's router


def test_through_the_router_completions_and_weights_are_right_whichever_server_answers(
    router, two_servers, checkpoints
):
    async def both_versions(engine):
        old = await asyncio.gather(*(engine.generate(PROMPT, sampling(seed=seed)) for seed in range(4)))
        await engine.reload(checkpoints["b"].folder, policy_version=1)
        new = await asyncio.gather(*(engine.generate(PROMPT, sampling(seed=seed)) for seed in range(4)))
        return old, new, engine.name, engine.num_slots

    old, new, name, num_slots = with_engine(router.url, both_versions, weights=checkpoints["a"].folder)
    assert num_slots == 16 and "2 servers behind" in name
    for completions, checkpoint, version in ((old, "a", 0), (new, "b", 1)):
        for completion in completions:
            assert completion.policy_version == version
            expected = reference_logprobs(checkpoints[checkpoint].model, completion.token_ids)
            np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)


def test_the_router_cannot_pass_truncated_sampling_on_and_that_is_said(router, checkpoints):
    with pytest.raises(EngineError, match="router that drops return_sampling_mask"):
        with_engine(
            router.url, lambda engine: engine.generate(PROMPT, sampling(top_p=0.9)), weights=checkpoints["a"].folder
        )


def test_a_server_behind_the_router_with_strange_weights_is_given_the_right_ones(router, two_servers, checkpoints):
    async def behind_its_back(engine):
        body = {"model_path": str(checkpoints["b"].folder), "weight_version": "stranger", "flush_cache": False}
        httpx.post(f"{two_servers[0].url}/update_weights_from_disk", json=body, timeout=60).raise_for_status()
        return await asyncio.gather(*(engine.generate(PROMPT, sampling(seed=seed)) for seed in range(6)))

    for completion in with_engine(router.url, behind_its_back, weights=checkpoints["a"].folder):
        assert completion.policy_version == 0
        expected = reference_logprobs(checkpoints["a"].model, completion.token_ids)
        np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)
    assert model_name(two_servers[0].url).startswith("0@")
