"""The engine of large runs: SGLang servers that run already, over their HTTP API (written against SGLang 0.5.23).

In: prompts as token ids; folders of exported weights that the servers can read under the same path. Out: completions as
the ids that were sampled, with the logprobs of the distribution that they were sampled from. Text never crosses.

A completion is made of pieces: what a server had sampled when it was aborted is kept, and the next piece continues it,
there or elsewhere. Where a server dies, what it was asked is asked again, with the same seed. Weights are sent to every
server, and to one that comes back before it gets a request; its checksums are compared with the files and with those of
the other servers.

    on_new_weights   finish     running requests end first; new ones wait
                     abort      they are aborted and go on from the tokens they have, under the new weights
                     retract    the server computes their keys and values anew, with the new weights
                     in_place   they go on with the keys and values that the old weights wrote
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.draft import Draft
from nouscoder_jax.rollout.fleet import Fleet, Server, check_context, find_servers
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.rollout.server_weights import OnNewWeights, ServedWeights, ServerWeights, Weights
from nouscoder_jax.rollout.sglang_calls import (
    ANSWER_TIMEOUT_S,
    Caller,
    Piece,
    RefusedError,
    ServerLostError,
    WrongVersionError,
    ask_at_start,
    generate_body,
    read_piece,
    read_scores,
    score_body,
    truncates,
    worker_urls,
)
from nouscoder_jax.rollout.weights_check import check_layout, read_export
from nouscoder_jax.types import Completion, DriftError, EngineError, Prompt, Sampling

MAX_REFUSALS = 3
"""Answers of one completion that may be refused before the call fails."""
MAX_TIMEOUTS = 2
"""Times that one completion may take a server longer than request_timeout_s before the call fails."""
TELL_EVERY_S = 60.0
"""Seconds between two lines about answers of one server that were refused."""


class SGLangEngine:
    """Engine over SGLang servers, or over SGLang's router and the servers behind it.

    Example:
        engine = SGLangEngine(urls, num_slots=128, request_timeout_s=7200.0, server_timeout_s=60.0,
                              outage_limit_s=1800.0, on_new_weights="abort", eos_token_ids=(151645,),
                              context_tokens=40960, say=print)
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        num_slots: int,
        request_timeout_s: float,
        server_timeout_s: float,
        outage_limit_s: float,
        on_new_weights: OnNewWeights,
        eos_token_ids: Sequence[int],
        context_tokens: int,
        say: Callable[[str], None],
    ) -> None:
        """Asks every server what it is. Raises UserError that names one that does not answer or whose context is
        shorter than `context_tokens`.

        `num_slots`: requests in flight to one server at most. `say` gets one line where a server goes or comes back.
        """
        router, workers = find_servers(urls, num_slots=num_slots, context_tokens=context_tokens)
        model = Path(str(ask_at_start(workers[0].url, "/model_info").get("model_path")))
        through = f" behind {router.url}" if router else ""
        self.name = f"SGLang ({len(workers)} server{'s' * (len(workers) > 1)}{through}, {model})"
        self._num_slots, self._context_tokens, self._say = num_slots, context_tokens, say
        self._request_timeout_s, self._server_timeout_s = request_timeout_s, server_timeout_s
        self._eos_token_ids = tuple(eos_token_ids)
        self._caller = Caller()
        self._server_weights = ServerWeights(
            self._caller, on_new_weights=on_new_weights, request_timeout_s=request_timeout_s
        )
        self._fleet = Fleet(
            workers,
            router=router,
            probe=self._probe,
            readmit=self._readmit,
            server_timeout_s=server_timeout_s,
            outage_limit_s=outage_limit_s,
            say=say,
        )
        self._layout = read_export(model).layout if model.is_dir() else None
        self._weights: Weights | ServedWeights | None = None
        """What every server should have, from the start of `reload` on."""
        self._policy_version = -1
        self._versions: dict[str, int] = {}
        self._proof: Probe | None = None
        """What the servers were last proven with."""
        self._num_reloads = 0
        self._changing = asyncio.Lock()
        self._unsure = False
        """Servers gave their memory back and may have lost the weights."""
        self._tokens_generated = 0
        self._told: dict[str, float] = {}
        self._under_way: dict[str, Server] = {}
        self._aborts: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def policy_version(self) -> int:
        """Version that every ready server has loaded; -1 until the first `reload`, whatever the servers hold."""
        return self._policy_version

    @property
    def tokens_generated(self) -> int:
        """Completion tokens received, each once; refused ones are not counted."""
        return self._tokens_generated

    @property
    def num_slots(self) -> int:
        """Requests in flight at most, over all servers."""
        return self._num_slots * len(self._fleet.workers)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """One completion. Cancelling aborts the request on its server. Raises EngineError: no version was loaded, the
        request is wrong, 3 answers were refused, 2 took too long, or no server was there for outage_limit_s.
        """
        await self._check_usable()
        draft, avoid = Draft(prompt=prompt, sampling=sampling), None
        while draft.finish == "abort":
            server = await self._fleet.acquire(avoid)
            try:
                avoid = await self._next_piece(draft, server)
            finally:
                self._fleet.release(server)
        return draft.completion()

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        """Makes all servers load the weights, the way that `on_new_weights` says, and checks what they then hold.

        Servers that are lost get them when they come back. Raises EngineError, and keeps or restores the old weights,
        where the folder is incomplete or of another layout (before any server is asked), or where a server does not
        take them or holds something else afterwards.
        """
        if self._closed:
            raise EngineError("the SGLang engine is closed")
        self._fleet.start()
        export = await asyncio.to_thread(read_export, Path(export_dir))
        if self._layout is not None:
            check_layout(export.layout, self._layout, export.folder)
        async with self._changing:
            self._num_reloads += 1
            old, new = self._weights, Weights(export=export, policy_version=policy_version, turn=self._num_reloads)
            self._weights = new
            self._versions[new.name] = policy_version
            try:
                await self._load_all(new)
            except BaseException as error:
                self._take_back(new, old, reason=str(error))
                raise
            self._layout, self._policy_version = export.layout, policy_version

    async def adopt(self, *, policy_version: int) -> None:
        """Takes the weights that the servers have, as `policy_version`, without changing them. A server that comes back
        with others gets no request. Raises EngineError where one does not answer or they differ."""
        if self._closed:
            raise EngineError("the SGLang engine is closed")
        self._fleet.start()
        try:
            found = {server.url: await self._server_weights.served(server) for server in self._fleet.workers}
        except ServerLostError as error:
            raise EngineError(str(error)) from error
        (url, (path, name)), *others = found.items()
        for other, served in others:
            if served != (path, name):
                raise EngineError(
                    f"{other} serves {served[0]}, version {served[1]!r}, and {url} {path}, version {name!r}; name "
                    "servers of one model"
                )
        async with self._changing:
            self._weights = ServedWeights(model_path=path, name=name, policy_version=policy_version)
            self._versions[name] = policy_version
            await self._load_all(self._weights, only_where_lost=True)
            self._policy_version = policy_version

    async def prove(self, probe: Probe) -> Drift:
        """Has every server that lives score the probe; see `Engine.prove`. One that is lost meanwhile, or now, is
        proven when it comes back, and stays out where it is over a bound."""
        await self._check_usable()
        async with self._changing:
            self._proof = probe
            scored = await asyncio.gather(*map(self._prove_unless_lost, self._fleet.alive))
        found = [drift for drift in scored if drift is not None]
        if not found:
            await self._fleet.wait_ready()
            return await self.prove(probe)
        return Drift(mean=max(drift.mean for drift in found), largest=max(drift.largest for drift in found))

    async def _prove_unless_lost(self, server: Server) -> Drift | None:
        try:
            return await self._fleet.while_up(server, self._score(server))
        except ServerLostError as error:
            self._fleet.lose(server, str(error))
        except RefusedError as error:
            raise EngineError(str(error)) from error
        return None

    async def _score(self, server: Server) -> Drift | None:
        """Raises DriftError, ServerLostError, RefusedError, EngineError. None where there is nothing to compare with:
        newer weights have come."""
        probe, weights = self._proof, self._weights
        if probe is None or weights is None or probe.policy_version != weights.policy_version:
            return None
        found = []
        for sequence in probe.sequences:
            body = score_body(sequence, cache_key=weights.cache_key)
            answer = await self._caller.post(server.url, "/generate", body, timeout_s=self._request_timeout_s)
            found.append(read_scores(server.url, answer, sequence, weight_version=weights.name))
        return probe.compare(found, who=f"SGLang server {server.url}")

    async def release_memory(self) -> None:
        """Has the servers give back what they can (SGLang's memory saver). Raises EngineError while requests run."""
        if self._under_way:
            raise EngineError(f"{len(self._under_way)} requests run; servers give memory back only between requests")
        for server in self._fleet.alive:
            self._fleet.load(server)
            await self._memory(server, "/release_memory_occupation")

    async def resume_memory(self) -> None:
        """Has the servers take it again. Weights that did not survive are sent again before the next request (one that
        waits already included), unless `reload` comes first."""
        for server in self._fleet.alive:
            await self._memory(server, "/resume_memory_occupation")
        self._unsure = True
        if self._fleet.num_waiting:
            await self._check_usable()

    async def close(self) -> None:
        """Aborts what is in flight and closes all connections. The servers go on running."""
        self._closed = True
        under_way = list(self._under_way.items())
        await self._fleet.close(EngineError("the SGLang engine is closed"))
        await asyncio.gather(*(self._abort(server, rid) for rid, server in under_way), *self._aborts)
        await self._caller.close()

    def _take_back(self, new: Weights, old: Weights | ServedWeights | None, *, reason: str) -> None:
        """Every server gets the old weights again before its next request."""
        self._weights = old
        if old is None or old.name != new.name:
            del self._versions[new.name]
        for server in self._fleet.alive:
            self._fleet.lose(server, f"it may hold weights that were not taken everywhere ({reason})")

    async def _check_usable(self) -> None:
        if self._closed:
            raise EngineError("the SGLang engine is closed")
        if self._weights is None:
            raise EngineError("no weights have been loaded; call reload with an export before the first request")
        self._fleet.start()
        if self._unsure:
            async with self._changing:
                if self._unsure:
                    await self._load_all(self._weights, only_where_lost=True)

    async def _next_piece(self, draft: Draft, server: Server) -> Server | None:
        """Adds what one request brings to the draft. Returns the server that the next one should avoid."""
        weights = self._weights
        assert weights is not None
        try:
            piece, in_time = await self._fleet.while_up(server, self._ask(server, draft, weights))
        except ServerLostError as error:
            self._fleet.lose(server, str(error))
            return server
        except RefusedError as error:
            await self._after_refusal(draft, server, error)
            return server
        draft.add(piece, self._versions)
        self._tokens_generated += len(piece.token_ids)
        if draft.finish != "abort":
            return None
        if not in_time:
            self._count(draft.timeouts, f"{server.url} took longer than {self._request_timeout_s:g} s", MAX_TIMEOUTS)
            return server
        if weights is self._weights:  # not for new weights: somebody else aborted it
            self._count(draft.refusals, f"{server.url} aborted the request", MAX_REFUSALS)
        return None

    async def _after_refusal(self, draft: Draft, server: Server, error: RefusedError) -> None:
        if time.monotonic() - self._told.get(server.url, -math.inf) > TELL_EVERY_S:
            self._told[server.url] = time.monotonic()
            self._say(f"SGLang answer refused: {error}")
        self._count(draft.refusals, str(error), MAX_REFUSALS)
        if server is self._fleet.router:
            await asyncio.gather(*map(self._look_at, self._fleet.alive))
            await self._fleet.wait_settled()
        elif isinstance(error, WrongVersionError):
            self._fleet.lose(server, str(error))

    async def _look_at(self, server: Server) -> None:
        try:
            await self._probe(server)
        except ServerLostError as error:
            self._fleet.lose(server, str(error))

    def _count(self, failures: list[str], failure: str, limit: int) -> None:
        failures.append(failure)
        if len(failures) >= limit:
            raise EngineError(f"a completion failed {limit} times: {'; '.join(failures)}")

    async def _ask(self, server: Server, draft: Draft, weights: Weights | ServedWeights) -> tuple[Piece, bool]:
        """The piece that one request brings, and whether it came in time: one that did not is what the server had
        sampled when it was aborted. Raises ServerLostError, RefusedError, EngineError."""
        sampling, rid = draft.sampling, uuid.uuid4().hex
        body = generate_body(
            (*draft.prompt.token_ids, *draft.token_ids),
            sampling,
            num_tokens=draft.num_left,
            rid=rid,
            stop_token_ids=self._eos_token_ids,
            cache_key=weights.cache_key,
        )
        self._under_way[rid] = server
        asking = asyncio.create_task(self._caller.post(server.url, "/generate", body, timeout_s=None))
        try:
            in_time, _ = await asyncio.wait({asking}, timeout=self._request_timeout_s)
            if not in_time:
                await self._abort(server, rid)
                if not (await asyncio.wait({asking}, timeout=ANSWER_TIMEOUT_S))[0]:
                    return Piece(token_ids=(), behavior_logprobs=(), finish="abort", spans=()), False
            answer = asking.result()
        except asyncio.CancelledError:
            self._abort_later(server, rid)  # the server must hear of it although this task is ending
            raise
        finally:
            asking.cancel()
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody waits for it
            self._under_way.pop(rid, None)
        return self._read(server, answer, draft), bool(in_time)

    def _read(self, server: Server, answer: Any, draft: Draft) -> Piece:
        if server is self._fleet.router and truncates(draft.sampling) and _lacks_sampling_logprobs(answer):
            raise EngineError(
                f"{server.url} is a router that drops return_sampling_mask, so top-p and top-k have no behaviour "
                "logprobs; use --rollout.top-p 1 --rollout.top-k 0, or name the servers with --rollout.urls"
            )
        piece = read_piece(server.url, answer, draft.sampling, num_tokens=draft.num_left)
        if unknown := [span.name for span in piece.spans if span.name not in self._versions]:
            raise WrongVersionError(
                f"{server.url} generated with weight version {unknown[0]!r}, which this run did not load"
            )
        return piece

    def _abort_later(self, server: Server, rid: str) -> None:
        if server.state == "lost":
            server.abandoned.append(rid)
        if server.state == "lost" or self._closed:
            return
        abort = asyncio.create_task(self._abort(server, rid))
        self._aborts.add(abort)
        abort.add_done_callback(self._aborts.discard)

    async def _abort(self, server: Server, rid: str) -> None:
        targets = self._fleet.workers if server is self._fleet.router else [server]
        for target in targets:
            with contextlib.suppress(ServerLostError, RefusedError, EngineError):  # one that is gone generates nothing
                await self._caller.post(target.url, "/abort_request", {"rid": rid}, timeout_s=ANSWER_TIMEOUT_S)

    async def _load_all(self, weights: Weights | ServedWeights, *, only_where_lost: bool = False) -> None:
        """All servers that live take the weights at once. Raises the first EngineError after all are done."""
        servers = self._fleet.alive
        for server in servers:
            self._fleet.load(server)
        sending = (self._load(server, weights, only_where_lost=only_where_lost) for server in servers)
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        if failed := [outcome for outcome in outcomes if isinstance(outcome, BaseException)]:
            raise failed[0]
        self._unsure = False
        await self._fleet.wait_ready()

    async def _load(self, server: Server, weights: Weights | ServedWeights, *, only_where_lost: bool) -> None:
        try:
            if not only_where_lost or not await self._server_weights.holds(server, weights):
                await self._fleet.while_up(server, self._server_weights.send(server, weights))
            self._fleet.ready(server, how=f"it has version {weights.policy_version}")
        except ServerLostError as error:
            self._fleet.lose(server, str(error))

    async def _memory(self, server: Server, path: str) -> None:
        try:
            await self._caller.post(server.url, path, {}, timeout_s=self._request_timeout_s)
        except ServerLostError as error:
            self._fleet.lose(server, str(error))
        except (RefusedError, EngineError) as error:
            raise EngineError(f"{error}; start it with --enable-memory-saver (server.memory_saver)") from error

    async def _probe(self, server: Server) -> None:
        """Raises ServerLostError where a server does not live or does not hold the weights that it should. Of a server
        that is ready, the scheduler must answer: /server_info asks it, paused or not; /model_info does not."""
        timeout_s, weights = self._server_timeout_s, self._weights
        try:
            if server is self._fleet.router:
                found = await self._caller.get(server.url, "/workers", timeout_s=timeout_s)
                await self._take_in(worker_urls(found) or [])
                return
            if server.state == "ready":
                await self._caller.get(server.url, "/server_info", timeout_s=timeout_s)
            info = await self._caller.get(server.url, "/model_info", timeout_s=timeout_s)
        except (RefusedError, EngineError) as error:
            raise ServerLostError(str(error)) from error
        name = str(info.get("weight_version")) if isinstance(info, Mapping) else repr(info)
        if server.state != "ready" or weights is None or weights is not self._weights or self._changing.locked():
            return
        if name != weights.name:
            raise ServerLostError(f"{server.url} serves version {name!r} instead of {weights.name!r}")

    async def _take_in(self, urls: Sequence[str]) -> None:
        """Adds servers that the router has got meanwhile."""
        known = {server.url for server in self._fleet.workers}
        for url in (url for url in urls if url not in known):
            self._say(f"SGLang server {url} is new behind the router; it gets the weights first")
            self._fleet.add(Server(url=url, num_slots=self._num_slots, info={}))

    async def _readmit(self, server: Server) -> str:
        """Makes a server that was lost hold the current weights. Raises ServerLostError, RefusedError, EngineError."""
        timeout_s, how = self._server_timeout_s, "no weights were loaded yet"
        if server is self._fleet.router:
            await self._caller.get(server.url, "/workers", timeout_s=timeout_s)
            return "the router answers"
        server.info = await self._caller.get(server.url, "/server_info", timeout_s=timeout_s)
        server.answers = True
        try:
            check_context(server, self._context_tokens)
        except UserError as error:
            raise EngineError(str(error)) from error
        while server.abandoned:
            await self._abort(server, server.abandoned.pop())
        await self._server_weights.unpause(server)
        done = None
        while (weights := self._weights) is not None and done is not weights:  # newer ones may come meanwhile
            done = weights
            if await self._server_weights.holds(server, done):
                how = f"it still holds version {done.policy_version}"
            else:
                await self._server_weights.send(server, done)
                how = f"version {done.policy_version} was sent to it again"
            try:
                await self._score(server)
            except DriftError as error:
                raise EngineError(str(error)) from error
        return how


def _lacks_sampling_logprobs(answer: Any) -> bool:
    meta = answer.get("meta_info") if isinstance(answer, Mapping) else None
    return isinstance(meta, Mapping) and "output_token_sampling_logprobs" not in meta
