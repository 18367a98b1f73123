"""The engine of large runs: SGLang servers that run already, over their HTTP API (written against SGLang 0.5.23).

In: prompts as token ids; folders of exported weights that the servers can read under the same path. Out: completions as
the ids that were sampled, with the logprobs of the distribution that they were sampled from. Text never crosses.

    logprobs          `output_token_logprobs`: log softmax(logits / temperature), before top-k and top-p
    truncating        `output_token_sampling_logprobs` (asked for with return_sampling_mask): after them
    seeds             count only where the server was started with --enable-deterministic-inference
    weight versions   the server names the version of every span of tokens; one that this engine did not load is refused
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import httpx

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Completion, EngineError, Prompt, Sampling

CONNECT_TIMEOUT_S = 10.0
"""Seconds that a server has to say which model it serves, and to take an abort."""


class SGLangEngine:
    """Engine over one or more SGLang servers; each request goes to the one with the fewest in flight.

    Example:
        engine = SGLangEngine(urls, num_slots=128, request_timeout_s=2400.0, eos_token_ids=(151645,))
    """

    def __init__(
        self, urls: Sequence[str], *, num_slots: int, request_timeout_s: float, eos_token_ids: Sequence[int]
    ) -> None:
        """Asks every server which model it serves. Raises UserError that names one that does not answer.

        `num_slots`: requests in flight to one server at most.
        """
        urls = [url.rstrip("/") for url in urls]
        with httpx.Client(timeout=CONNECT_TIMEOUT_S) as client:
            servers = {url: _ask_model_info(client, url) for url in urls}
        model = str(servers[urls[0]]["model_path"])
        self.name = f"SGLang ({len(servers)} server{'s' * (len(servers) > 1)}, {model})"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(request_timeout_s), limits=limits)
        self._eos_token_ids = list(eos_token_ids)
        self._in_flight = dict.fromkeys(servers, 0)
        self._slots = {url: asyncio.Semaphore(num_slots) for url in servers}
        # What a server starts with is version 0 of the run, whatever it calls it.
        self._versions = {str(info["weight_version"]): 0 for info in servers.values()}
        self._policy_version = 0
        self._layout = weight_layout(Path(model)) if Path(model).is_dir() else None
        self._tokens_generated = 0
        self._aborts: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def policy_version(self) -> int:
        """Version that every server has loaded."""
        return self._policy_version

    @property
    def tokens_generated(self) -> int:
        """Completion tokens received."""
        return self._tokens_generated

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """One completion. Cancelling aborts the request on its server. Raises EngineError.

        `Completion.logprobs` is nan where the temperature is not 1: SGLang reports one distribution a request.
        """
        if self._closed:
            raise EngineError("the SGLang engine is closed")
        url = min(self._in_flight, key=self._in_flight.__getitem__)
        self._in_flight[url] += 1
        try:
            async with self._slots[url]:
                answer = await self._ask(url, prompt, sampling)
        finally:
            self._in_flight[url] -= 1
        completion = self._completion(url, answer, sampling)
        self._tokens_generated += len(completion.token_ids)
        return completion

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        """Makes all servers load the weights; requests in flight finish with the old ones first.

        Raises EngineError, before any server is asked, where the folder lacks a tensor or one has another shape:
        SGLang keeps old tensors for missing ones without saying so, and dies of a wrong shape.
        """
        layout = weight_layout(export_dir)
        if self._layout is not None:
            _check_layout(layout, self._layout, export_dir)
        name = str(policy_version)
        self._versions[name] = policy_version
        await asyncio.gather(*(self._reload(url, export_dir, name) for url in self._in_flight))
        self._layout = layout
        self._policy_version = policy_version

    async def close(self) -> None:
        """Aborts what is in flight and closes all connections. The servers go on running."""
        self._closed = True
        if self._aborts:
            await asyncio.wait(self._aborts)
        await self._client.aclose()

    async def _ask(self, url: str, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        truncating = sampling.top_p < 1 or sampling.top_k > 0
        request = {
            "rid": uuid.uuid4().hex,
            "input_ids": list(prompt.token_ids),
            "sampling_params": {
                "max_new_tokens": sampling.max_completion_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k if sampling.top_k > 0 else -1,
                "stop_token_ids": self._eos_token_ids,
                "sampling_seed": sampling.seed,
                "skip_special_tokens": False,
                "no_stop_trim": True,
            },
            "return_logprob": True,
            "return_sampling_mask": truncating,
        }
        try:
            return await self._call(url, "/generate", request)
        except asyncio.CancelledError:
            # The server must hear of it although this task is ending.
            abort = asyncio.create_task(self._abort(url, request["rid"]))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)
            raise

    async def _abort(self, url: str, rid: str) -> None:
        with contextlib.suppress(httpx.HTTPError):  # a server that is gone generates nothing either
            await self._client.post(f"{url}/abort_request", json={"rid": rid}, timeout=CONNECT_TIMEOUT_S)

    async def _call(self, url: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = await self._client.request("GET" if body is None else "POST", url + path, json=body)
        except httpx.TimeoutException as error:
            raise EngineError(f"{url}{path} gave no answer within {self._client.timeout.read} s") from error
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: closed while waiting
            raise EngineError(f"{url}{path} failed: {type(error).__name__} {error}") from error
        if response.status_code != 200:
            raise EngineError(f"{url}{path} answered {response.status_code}: {' '.join(response.text.split())[:300]}")
        try:
            return response.json()
        except json.JSONDecodeError as error:
            raise EngineError(f"{url}{path} answered something that is not JSON: {response.text[:100]!r}") from error

    async def _reload(self, url: str, export_dir: Path, name: str) -> None:
        request = {"model_path": str(export_dir.resolve()), "weight_version": name}
        answer = await self._call(url, "/update_weights_from_disk", request)
        if not answer.get("success"):
            raise EngineError(f"{url} did not load {export_dir}: {answer.get('message')}")
        served = (await self._call(url, "/model_info", None)).get("weight_version")
        if str(served) != name:
            raise EngineError(f"{url} loaded {export_dir} as version {name} and now says it serves {served!r}")

    def _completion(self, url: str, answer: dict[str, Any], sampling: Sampling) -> Completion:
        try:
            meta = answer["meta_info"]
            scored = meta.get("output_token_logprobs") or []
            tokens = tuple(int(token) for _, token, _ in scored)
            plain = tuple(float(logprob) for logprob, _, _ in scored)
            finish = meta["finish_reason"]["type"]
            truncating = sampling.top_p < 1 or sampling.top_k > 0
            behavior = tuple(map(float, meta["output_token_sampling_logprobs"])) if truncating and tokens else plain
            spans = meta.get("weight_versions") or [{"version": meta["weight_version"]}]
            names = [str(span["version"]) for span in spans]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{url} answered without {error}: {str(answer)[:200]}") from error
        whole = len(behavior) == len(tokens) and all(map(math.isfinite, behavior))
        if finish not in ("stop", "length", "abort") or not whole:
            raise EngineError(
                f"{url} answered {len(tokens)} tokens with {len(behavior)} logprobs, finish {finish!r}; "
                "one finite logprob a token and finish stop, length or abort were expected"
            )
        if unknown := [name for name in names if name not in self._versions]:
            raise EngineError(f"{url} generated with weight version {unknown[0]!r}, which this run did not load")
        return Completion(
            token_ids=tokens,
            behavior_logprobs=behavior,
            logprobs=plain if sampling.temperature == 1 else (math.nan,) * len(tokens),
            finish_reason=cast(Literal["stop", "length", "abort"], finish),
            policy_version=min(self._versions[name] for name in names),
        )


def _ask_model_info(client: httpx.Client, url: str) -> dict[str, Any]:
    try:
        response = client.get(f"{url}/model_info")
        response.raise_for_status()
        info = response.json()
        if isinstance(info, dict) and {"model_path", "weight_version"} <= info.keys():
            return info
        reason = "its /model_info is not SGLang's"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
    raise UserError(
        f"no SGLang server answers at {url} ({reason}); start one with `python -m sglang.launch_server --model-path "
        "DIR --port PORT`, name others with --rollout.urls, or use --rollout.engine embedded"
    )


def weight_layout(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of all safetensors files of a folder, from their headers.

    Raises EngineError for a folder without weights, a torn file, or a file that the index names and that is not there.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{folder} holds no safetensors file")
    layout: dict[str, tuple[int, ...]] = {}
    for file in files:
        if not file.is_file():
            raise EngineError(f"{file} is named by the index and does not exist")
        layout |= _header(file)
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("tie_word_embeddings"):
        layout.pop("lm_head.weight", None)  # some files repeat the embedding under this name, which nobody reads
    return layout


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    with file.open("rb") as opened:
        start = opened.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = opened.read(min(size, file.stat().st_size))
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    except ValueError as error:
        raise EngineError(f"{file} is not a whole safetensors file: its header cannot be read") from error
    end = 8 + size + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if file.stat().st_size != end:
        raise EngineError(f"{file} has {file.stat().st_size} bytes; its header promises {end}")
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _check_layout(got: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    if missing := sorted(expected.keys() - got.keys()):
        raise EngineError(f"{folder} lacks {len(missing)} tensors, the first is {missing[0]}")
    if extra := sorted(got.keys() - expected.keys()):
        raise EngineError(f"{folder} holds {len(extra)} tensors that the served model lacks, the first is {extra[0]}")
    for name, shape in expected.items():
        if got[name] != shape:
            raise EngineError(f"{folder} has {name} of shape {got[name]}; the served model has {shape}")
