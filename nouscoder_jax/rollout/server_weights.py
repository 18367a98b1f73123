"""Weights on servers: sent, and found to be those of the files.

In: servers, an export. Out: servers that serve exactly it, or EngineError that names server and tensor.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nouscoder_jax.rollout.fleet import Server
from nouscoder_jax.rollout.sglang_calls import ANSWER_TIMEOUT_S, Caller, RefusedError
from nouscoder_jax.rollout.weights_check import Export, checksums, pick
from nouscoder_jax.types import EngineError

OnNewWeights = Literal["finish", "abort", "retract", "in_place"]

LOAD_TIMEOUT_S = 1800.0
"""Seconds that a server has to read weights; one that dies or hangs meanwhile is noticed earlier."""
CONTINUE_TIMEOUT_S = 60.0
"""Seconds that a server has to pause or to go on: it may be busy, and must not be left paused for that."""
COMPARED_BYTES = 1 << 30
"""Bytes of weights compared with the files at each change; the next ones at the next."""

Checksums = dict[str, dict[str, str]]
"""Rank of a server's process -> tensor -> checksum."""


@dataclass(eq=False, slots=True, kw_only=True)
class Weights:
    """One version, as servers are given it.

    Example:
        Weights(export=read_export(folder), policy_version=3, turn=3)
    """

    export: Export
    policy_version: int
    turn: int
    """How many versions this run has sent: which tensors are compared with the files."""
    seen: dict[str, tuple[str, Checksums]] = field(default_factory=dict)
    """Kind of server -> the first one that had the weights, and its checksums."""
    cache_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What requests to these weights share keys and values under; another each time they are sent."""
    expected: dict[tuple[str, str], asyncio.Task[dict[str, str]]] = field(default_factory=dict)
    """Dtype and device -> checksums worked out from the files."""

    @property
    def name(self) -> str:
        """The weight_version that servers are told: unique to the exact weights."""
        return f"{self.policy_version}@{self.export.digest}"


@dataclass(eq=False, slots=True, kw_only=True)
class ServedWeights:
    """What servers had when the engine came to them; it is never sent.

    Example:
        ServedWeights(model_path="Qwen3-14B", name="default", policy_version=0)
    """

    model_path: str
    name: str
    """The weight_version that the servers say."""
    policy_version: int
    cache_key: str = field(default_factory=lambda: uuid.uuid4().hex)


class ServerWeights:
    """Sends weights to servers and compares what they hold."""

    def __init__(self, caller: Caller, *, on_new_weights: OnNewWeights, request_timeout_s: float) -> None:
        """`request_timeout_s`: how long requests may run that an update waits for."""
        self._caller = caller
        self._mode: OnNewWeights = on_new_weights
        self._request_timeout_s = request_timeout_s

    async def send(self, server: Server, weights: Weights | ServedWeights) -> None:
        """Has a server take the weights, the way that `on_new_weights` says, and checks them before the next token.

        Raises EngineError where it does not take them or holds something else, ServerLostError where it is gone. It is
        never left paused. ServedWeights are not sent: EngineError.
        """
        if isinstance(weights, ServedWeights):
            raise EngineError(
                f"{server.url} no longer serves {weights.model_path} as version {weights.name!r}; start it as before"
            )
        body = {
            "model_path": str(weights.export.folder.resolve()),
            "weight_version": weights.name,
            # Requests name the weights that their prompts' keys and values may come from, so old ones do no harm; only
            # retracted requests still name the old weights. A flush fails where a request has ended this very moment.
            "flush_cache": self._mode == "retract",
            "abort_all_requests": self._mode == "abort",
        }
        timeout_s = LOAD_TIMEOUT_S + self._request_timeout_s
        weights.cache_key = uuid.uuid4().hex  # whatever the server computed before, under whatever name, is not used
        pausing: set[asyncio.Task[Any]] = set()
        try:
            if self._mode in ("retract", "in_place"):
                pause = self._post(server, "/pause_generation", {"mode": self._mode}, timeout_s=CONTINUE_TIMEOUT_S)
                task = _told_by_whoever_waits(pause)
                pausing.add(task)
                await asyncio.shield(task)  # where this is cancelled, the server must still not pause after unpause
            answer = await self._post(server, "/update_weights_from_disk", body, timeout_s=timeout_s)
            if not answer.get("success"):
                raise EngineError(f"{server.url} did not load {weights.export.folder}: {answer.get('message')}")
            await self.check(server, weights)
        finally:
            await asyncio.shield(_told_by_whoever_waits(self._unpause_after(server, pausing)))

    async def unpause(self, server: Server) -> None:
        """Has a server go on, whoever paused it."""
        await self._post(server, "/continue_generation", {}, timeout_s=CONTINUE_TIMEOUT_S)

    async def _unpause_after(self, server: Server, pausing: set[asyncio.Task[Any]]) -> None:
        if pausing:
            await asyncio.wait(pausing)
        await self.unpause(server)

    async def served(self, server: Server) -> tuple[str, str]:
        """The model's path and the name of its weights, as a server says them."""
        try:
            info = await self._caller.get(server.url, "/model_info", timeout_s=ANSWER_TIMEOUT_S)
        except RefusedError as error:
            raise EngineError(str(error)) from error
        info = info if isinstance(info, Mapping) else {}
        return str(info.get("model_path")), str(info.get("weight_version"))

    async def name_on(self, server: Server) -> str:
        """The name of the weights that a server says it serves."""
        return (await self.served(server))[1]

    async def holds(self, server: Server, weights: Weights | ServedWeights) -> bool:
        """Whether a server serves these weights already: by name and checksums, or, of ServedWeights, path and name."""
        if isinstance(weights, ServedWeights):
            return await self.served(server) == (weights.model_path, weights.name)
        if await self.name_on(server) != weights.name:
            return False
        try:
            await self.check(server, weights)
        except EngineError:
            return False
        return True

    async def check(self, server: Server, weights: Weights) -> None:
        """Raises EngineError that names server and tensor where a server says another version, or has a checksum that
        is not that of the files or of another server."""
        if (name := await self.name_on(server)) != weights.name:
            raise EngineError(
                f"{server.url} loaded {weights.export.folder} as version {weights.name} and now says it serves {name!r}"
            )
        found = await self._checksums(server)
        info = server.info
        kind = " ".join(str(info.get(key)) for key in ("dtype", "quantization", "device", "tp_size", "pp_size"))
        where, first = weights.seen.setdefault(kind, (server.url, found))
        for rank in first.keys() | found.keys():
            _compare(found.get(rank, {}), first.get(rank, {}), server=server, source=f"{where} has", weights=weights)
        dtype = _served_dtype(info, weights.export)
        if dtype is not None and len(found) == 1:
            (only,) = found.values()
            expected = await self._expected(weights, only, dtype=dtype, device=str(info.get("device")))
            _compare(
                {name: only[name] for name in expected},
                expected,
                server=server,
                source="the files hold",
                weights=weights,
            )

    async def _checksums(self, server: Server) -> Checksums:
        answer = await self._post(server, "/weights_checker", {"action": "checksum"}, timeout_s=LOAD_TIMEOUT_S)
        try:
            ranks = answer["ranks"]
            return {json.dumps(rank["parallelism_info"], sort_keys=True): dict(rank["checksums"]) for rank in ranks}
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineError(f"{server.url} gave no checksums of its weights: {str(answer)[:200]}") from error

    async def _expected(self, weights: Weights, names: Mapping[str, str], *, dtype: str, device: str) -> dict[str, str]:
        """Worked out once for all servers of a kind."""
        if (dtype, device) not in weights.expected:
            picked = pick(weights.export, names, budget_bytes=COMPARED_BYTES, turn=weights.turn)
            working = asyncio.to_thread(checksums, weights.export, picked, dtype=dtype, device=device)
            weights.expected[dtype, device] = asyncio.create_task(working)
        return await asyncio.shield(weights.expected[dtype, device])

    async def _post(self, server: Server, path: str, body: dict[str, Any], *, timeout_s: float) -> Any:
        try:
            return await self._caller.post(server.url, path, body, timeout_s=timeout_s)
        except RefusedError as error:
            raise EngineError(str(error)) from error


def _told_by_whoever_waits(calling: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task for `asyncio.shield`: where its waiter was cancelled, nobody else is told of a server that is gone."""
    task = asyncio.create_task(calling)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


def _compare(
    got: Mapping[str, str], expected: Mapping[str, str], *, server: Server, source: str, weights: Weights
) -> None:
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            raise EngineError(
                f"{server.url} has other weights than version {weights.name}: its {name} has checksum "
                f"{got.get(name)}, {source} {expected.get(name)}"
            )


def _served_dtype(info: Mapping[str, Any], export: Export) -> str | None:
    """The dtype that a server keeps weights in; None where its checksums cannot be worked out from the files."""
    stored = {place.dtype for _, place in export.places.values()}
    if info.get("quantization") or info.get("device") not in ("cpu", "cuda") or not stored <= {"bfloat16", "float32"}:
        return None
    dtype = str(info.get("dtype"))
    if dtype == "auto" and stored == {"bfloat16"}:
        return "bfloat16"
    return dtype if dtype in ("bfloat16", "float32") else None
