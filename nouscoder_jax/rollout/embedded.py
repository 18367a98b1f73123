"""The engine that runs in this process: Qwen3 in JAX with a KV cache, slots refilled as they finish.

In: prompts with a sampling each, exported weights. Out: completions. The one file of the host world that imports jax.

One asyncio task schedules: between two chunks of decoding it swaps weights, frees cancelled slots and fills free slots
from the queue in call order; the chunk itself runs in a worker thread, so that the event loop (and verification) goes
on. Calls that come in one burst are admitted together, so that the same calls in the same order give the same bits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import numpy as np

from nouscoder_jax.config import UserError
from nouscoder_jax.model import generate
from nouscoder_jax.model.generate import Batch, Cache, Sampled, Slots, Weights
from nouscoder_jax.model.qwen3 import Architecture, Qwen3
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.types import Completion, EngineError, Prompt, Sampling, VersionSpan

PREFILL_TOKENS = 2048
"""Prompt tokens that one prefill call computes at most (one prompt may be longer)."""
PREFILL_PROMPTS = (4, 8)
"""Prompts that one prefill call computes, padding included: few where few slots are refilled; the last is the most."""

FIRST_CACHE_TOKENS = 512
"""Length that the cache starts with where its sequences may become longer: a shorter one would save memory only."""

FEWER_ROWS = 4
"""Where few sequences are left, a chunk computes this fraction of the slots; more sizes would save less time than
compiling for them takes."""
LEAST_ROWS = 8

# Compiled once a shape for all engines of this process; a cache that is passed in is used up.
_prepare = jax.jit(generate.prepare, static_argnames="compute_dtype")
_score = jax.jit(generate.score, static_argnames="architecture")
_prefill = jax.jit(generate.prefill, static_argnames="architecture", donate_argnames="cache")
_prefill_each = jax.jit(generate.prefill_each, static_argnames="architecture", donate_argnames="cache")
_copy_prefix = jax.jit(generate.copy_prefix, donate_argnames="cache")
_resize = jax.jit(generate.resize, static_argnames="time")  # another shape: nothing to donate
_decode = jax.jit(generate.decode, static_argnames=("num_steps", "eos_ids", "architecture"), donate_argnames="cache")


def bucket(num_tokens: int) -> int:
    """Returns the least of 64, 96, 128, 192, 256, 384, ... that holds `num_tokens`: few shapes, few compilations."""
    size = 64
    while size < num_tokens:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def prefill_time(num_tokens: int) -> int:
    """Returns the length that a prefix of `num_tokens` is padded to; a cache that holds it is never shorter."""
    return next((size for size in (16, 32) if num_tokens <= size), bucket(num_tokens))


def cache_bucket(num_tokens: int) -> int:
    """Returns the least bucket of whole blocks."""
    return -(-bucket(num_tokens) // generate.BLOCK_TOKENS) * generate.BLOCK_TOKENS


def batch_sizes(num_sequences: int, num_blocks: int, *, num_slots: int, all_rows: bool) -> tuple[int, int]:
    """Returns the rows and blocks of the least batch that holds as many: few shapes, few compilations. `all_rows`: a
    row for every slot, however few sequences there are.

    All slots take 1, 1.5, 2, 3, 4, 6, ... blocks a slot; the fewer rows of a drain 2, 8, 32, ... a row.
    """
    rows = max(LEAST_ROWS, num_slots // FEWER_ROWS)
    if num_sequences <= rows < num_slots and not all_rows:
        blocks = 2 * rows
        while blocks < num_blocks:
            blocks *= 4
        return rows, blocks
    blocks = num_slots
    half = False
    while blocks < num_blocks:
        blocks = blocks * 4 // 3 if half else -(-blocks * 3 // 2)
        half = not half
    return num_slots, blocks


@dataclass(eq=False, slots=True, kw_only=True)
class _Request:
    """A call of `generate` from its arrival to its completion."""

    prompt: tuple[int, ...]
    sampling: Sampling
    future: asyncio.Future[Completion]
    ids: list[int] = field(default_factory=list)
    behavior_logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)

    @property
    def total_tokens(self) -> int:
        return len(self.prompt) + self.sampling.max_completion_tokens

    @property
    def cached_tokens(self) -> int:
        return len(self.prompt) + len(self.ids) - 1

    def extend_spans(self, policy_version: int) -> None:
        """Counts the tokens since the last span as sampled with this version."""
        start, end = 0, len(self.ids)
        if self.spans:
            start = self.spans[-1].end
            if self.spans[-1].policy_version == policy_version:
                start = self.spans.pop().start
        if start < end:
            self.spans.append(VersionSpan(policy_version=policy_version, start=start, end=end))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admission:
    """What the worker thread does before a chunk: prompts to compute into slots, slots to copy from one to another."""

    early_copies: tuple[tuple[int, int], ...]
    """Source and target slots; sources hold what an earlier chunk left, so this comes before any prefill."""
    prefills: tuple[tuple[int, tuple[int, ...]], ...]
    late_copies: tuple[tuple[int, int], ...]
    """Source and target slots; sources are filled by this admission."""
    cache_time: int


class EmbeddedEngine:
    """An `Engine` over a model in this process's memory."""

    def __init__(
        self,
        model: Qwen3,
        architecture: Architecture,
        *,
        eos_ids: Sequence[int],
        num_slots: int,
        decode_chunk_tokens: int,
        max_cache_tokens: int,
        compute_dtype: str,
        policy_version: int,
        batch_invariant: bool,
    ):
        """Takes a model (NumPy or jax arrays). `max_cache_tokens` bounds prompt + completion of one request.

        `batch_invariant`: what is decoded beside a request does not change a bit of it. Then prompts are computed one
        after another and every chunk computes all slots: rows of a product depend on how many there are.
        """
        self.name = f"embedded (JAX, {num_slots} slots)"
        self._architecture = architecture
        self._eos_ids = tuple(eos_ids)
        self._num_slots = num_slots
        self._chunk = decode_chunk_tokens
        self._max_cache_tokens = max_cache_tokens
        self._compute_dtype = compute_dtype
        self._batch_invariant = batch_invariant
        self._weights = _prepare(model, compute_dtype=compute_dtype)
        self._cache: Cache | None = None
        self._cache_time = 0
        self._policy_version = policy_version
        self._tokens_generated = 0
        self._queue: deque[_Request] = deque()
        self._slots: list[_Request | None] = [None] * num_slots
        self._resident: list[tuple[int, ...] | None] = [None] * num_slots  # prompt whose prefix a slot's cache holds
        self._new_weights: tuple[Weights, int, asyncio.Future[None]] | None = None
        self._wake: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: EngineError | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-engine")

    @classmethod
    def from_directory(
        cls,
        path: Path | str,
        *,
        architecture: Architecture | None = None,
        eos_ids: Sequence[int],
        num_slots: int,
        decode_chunk_tokens: int,
        max_cache_tokens: int,
        compute_dtype: str,
        policy_version: int,
        batch_invariant: bool,
    ) -> EmbeddedEngine:
        """Returns an engine over the weights of a Hugging Face directory. Raises UserError where it cannot be read.

        `architecture` counts in place of the directory's own, where given (YaRN).
        """
        architecture, model = load_model(path, architecture=architecture)
        return cls(
            model,
            architecture,
            eos_ids=eos_ids,
            num_slots=num_slots,
            decode_chunk_tokens=decode_chunk_tokens,
            max_cache_tokens=max_cache_tokens,
            compute_dtype=compute_dtype,
            policy_version=policy_version,
            batch_invariant=batch_invariant,
        )

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next token is sampled with."""
        return self._policy_version

    @property
    def tokens_generated(self) -> int:
        """Completion tokens sampled since the engine was made, those of cancelled calls included."""
        return self._tokens_generated

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Returns one completion; see `Engine.generate`. Temperature 0 takes the most probable token."""
        if self._failure is not None:
            raise self._failure
        request = _Request(
            prompt=prompt.token_ids, sampling=sampling, future=asyncio.get_running_loop().create_future()
        )
        if not request.prompt:
            raise EngineError("the prompt is empty; an engine continues at least one token")
        if request.total_tokens > self._max_cache_tokens:
            raise EngineError(
                f"prompt of {len(request.prompt)} + completion of {sampling.max_completion_tokens} tokens exceed the "
                f"engine's {self._max_cache_tokens}; shorten one or raise max_cache_tokens"
            )
        self._queue.append(request)
        self._start()
        return await request.future

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        """Takes the weights of a Hugging Face directory between two chunks; see `Engine.reload`.

        Sequences under way go on with the keys and values that the old weights wrote.
        """
        if self._failure is not None:
            raise self._failure
        try:
            architecture, model = await asyncio.to_thread(load_model, export_dir)
        except UserError as error:
            raise EngineError(f"weights of version {policy_version} not taken: {error}") from error
        if architecture != self._architecture:
            raise EngineError(
                f"weights of version {policy_version} not taken: {export_dir} has another architecture than the engine"
            )
        weights = await asyncio.to_thread(_prepare, model, compute_dtype=self._compute_dtype)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._new_weights is not None:
            await asyncio.wait([self._new_weights[2]])
        self._new_weights = (weights, policy_version, done)
        self._start()
        await done

    async def prove(self, probe: Probe) -> Drift:
        """Compares its logprobs with the trainer's; see `Engine.prove`."""
        if self._failure is not None:
            raise self._failure
        tokens = np.zeros((len(probe.sequences), bucket(max(map(len, probe.sequences)))), np.int32)
        for row, sequence in enumerate(probe.sequences):
            tokens[row, : len(sequence)] = sequence
        score = partial(_score, self._weights, tokens, architecture=self._architecture)
        scored = np.asarray(await asyncio.get_running_loop().run_in_executor(self._worker, score))
        logprobs = [row[: len(sequence) - 1].tolist() for row, sequence in zip(scored, probe.sequences, strict=True)]
        return probe.compare(logprobs, who=f"the engine, {self.name},")

    @property
    def num_slots(self) -> int:
        """Sequences decoded at once."""
        return self._num_slots

    async def release_memory(self) -> None:
        """Drops the cache of keys and values. Raises EngineError while a completion is under way: it needs them."""
        num_pending = sum(request is not None and not request.future.done() for request in [*self._slots, *self._queue])
        if num_pending:
            raise EngineError(f"{num_pending} completions are under way; await or cancel them before release_memory")
        self._resident = [None] * self._num_slots
        # Behind a chunk that still runs for cancelled calls, and before that of any later call.
        await asyncio.get_running_loop().run_in_executor(self._worker, self._drop_cache)

    async def resume_memory(self) -> None:
        """Nothing to do: the next request makes a cache."""

    async def close(self) -> None:
        """Stops the scheduler; pending calls raise EngineError."""
        self._fail(EngineError("the engine was closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.to_thread(self._worker.shutdown)
        self._cache = None

    def _drop_cache(self) -> None:
        self._cache = None

    def _start(self) -> None:
        """Wakes the scheduler; makes it in the running event loop when there is none."""
        if self._task is None or self._task.done():
            self._wake = asyncio.Event()
            self._task = asyncio.create_task(self._schedule(self._wake), name="embedded engine")
        assert self._wake is not None
        self._wake.set()

    def _fail(self, failure: EngineError) -> None:
        self._failure = failure
        futures = [request.future for request in [*self._slots, *self._queue] if request is not None]
        if self._new_weights is not None:
            futures.append(self._new_weights[2])
        for future in futures:
            if not future.done():
                future.set_exception(failure)
        self._queue.clear()
        self._slots = [None] * self._num_slots
        self._new_weights = None

    async def _schedule(self, wake: asyncio.Event) -> None:
        """Runs chunks while there is work. A failure of any kind reaches every pending call as EngineError."""
        try:
            while True:
                if not self._has_work():
                    wake.clear()
                    await wake.wait()
                    await asyncio.sleep(0)  # the rest of a burst of calls gets in before its first is admitted
                self._swap_weights()
                admission = self._admit()
                if any(self._slots):
                    chunk = partial(self._run_chunk, admission, *self._batch())
                    sampled = await asyncio.get_running_loop().run_in_executor(self._worker, chunk)
                    self._collect(sampled)
        except Exception as error:  # the top of a worker task that nobody awaits; the failure goes to every caller
            logging.getLogger(__name__).exception("the embedded engine failed")
            self._fail(EngineError(f"the embedded engine failed: {error!r}"))

    def _has_work(self) -> bool:
        return bool(self._queue) or self._new_weights is not None or any(self._slots)

    def _swap_weights(self) -> None:
        if self._new_weights is None:
            return
        self._weights, self._policy_version, done = self._new_weights
        self._new_weights = None
        self._resident = [None] * self._num_slots  # prefixes of the old weights are no source for new sequences
        if not done.done():
            done.set_result(None)

    def _admit(self) -> _Admission:
        """Frees cancelled slots and fills free ones in call order; a prompt that a slot's cache holds is copied."""
        for index, request in enumerate(self._slots):
            if request is not None and request.future.done():
                self._slots[index] = None
        was_idle = not any(self._slots)
        early: list[tuple[int, int]] = []
        prefills: list[tuple[int, tuple[int, ...]]] = []
        late: list[tuple[int, int]] = []
        fresh: set[int] = set()  # slots that hold their prefix only once the prefills have run
        for index in range(self._num_slots):
            if self._slots[index] is not None:
                continue
            request = self._next_request()
            if request is None:
                break
            self._slots[index] = request
            prefix = request.prompt[:-1]
            source = self._resident.index(prefix) if prefix in self._resident else None
            if source is None and prefix:
                prefills.append((index, prefix))
                fresh.add(index)
            elif source in fresh:
                late.append((source, index))
                fresh.add(index)
            elif source is not None and source != index:
                early.append((source, index))
            self._resident[index] = prefix
        cache_time = self._needed_time(was_idle=was_idle)
        self._resident = [None if p is None or len(p) > cache_time else p for p in self._resident]
        return _Admission(
            early_copies=tuple(early), prefills=tuple(prefills), late_copies=tuple(late), cache_time=cache_time
        )

    def _needed_time(self, *, was_idle: bool) -> int:
        """Returns the length of a cache with room for the next chunk: it grows with its sequences, in few steps,
        because another shape copies the cache and may compile. It shrinks in pauses only."""
        requests = [request for request in self._slots if request is not None]
        needed = [max(r.cached_tokens + self._chunk, FIRST_CACHE_TOKENS) for r in requests]
        now = cache_bucket(max(map(min, needed, (r.total_tokens for r in requests)), default=1))
        if was_idle:
            return now
        if now <= self._cache_time:
            return self._cache_time
        return max(now, min(2 * self._cache_time, cache_bucket(max(r.total_tokens for r in requests))))

    def _next_request(self) -> _Request | None:
        """Returns the first call of the queue that nobody cancelled."""
        while self._queue:
            request = self._queue.popleft()
            if not request.future.done():
                return request
        return None

    def _batch(self) -> tuple[Batch, Slots]:
        """Returns the slots with a request as rows, ascending, and what `decode` wants to know of each row."""
        taken = [(index, request) for index, request in enumerate(self._slots) if request is not None]
        lengths = [request.cached_tokens for _, request in taken]
        num_rows, num_blocks = batch_sizes(
            len(taken), generate.num_blocks(lengths), num_slots=self._num_slots, all_rows=self._batch_invariant
        )

        def column(dtype: type, padding: int | bool, read: Callable[[_Request], int | float | bool]) -> np.ndarray:
            values = [read(request) for _, request in taken]
            return np.asarray(values + [padding] * (num_rows - len(taken)), dtype)

        batch = generate.batch_of(
            [index for index, _ in taken],
            lengths,
            num_rows=num_rows,
            num_pairs=num_blocks,
            num_slots=self._num_slots,
        )
        return batch, Slots(
            tokens=column(np.int32, 0, lambda r: r.ids[-1] if r.ids else r.prompt[-1]),
            lengths=column(np.int32, 0, lambda r: r.cached_tokens),
            counts=column(np.int32, 0, lambda r: len(r.ids)),
            limits=column(np.int32, 0, lambda r: r.sampling.max_completion_tokens),
            seeds=column(np.int32, 0, lambda r: r.sampling.seed),
            temperatures=column(np.float32, 1, lambda r: r.sampling.temperature or 1.0),
            top_ps=column(np.float32, 1, lambda r: r.sampling.top_p),
            top_ks=column(np.int32, 0, lambda r: r.sampling.top_k if r.sampling.temperature else 1),
            active=column(np.bool_, False, lambda r: True),
        )

    def _run_chunk(self, admission: _Admission, batch: Batch, slots: Slots) -> Sampled:
        """Runs in the worker thread: makes room, fills new slots, decodes one chunk, returns NumPy arrays."""
        cache = self._cache
        if cache is None:
            cache = generate.init_cache(
                self._architecture, num_slots=self._num_slots, time=admission.cache_time, dtype=self._compute_dtype
            )
        elif admission.cache_time != self._cache_time:
            cache = _resize(cache, time=admission.cache_time)
        self._cache = None  # donated from here on
        self._cache_time = admission.cache_time
        cache = self._fill(cache, admission)
        cache, sampled = _decode(
            self._weights,
            cache,
            batch,
            slots,
            num_steps=self._chunk,
            eos_ids=self._eos_ids,
            architecture=self._architecture,
        )
        self._cache = cache
        return jax.tree.map(np.asarray, sampled)

    def _fill(self, cache: Cache, admission: _Admission) -> Cache:
        """Brings the prefixes of new requests into their slots, long ones first, few at a time to bound memory."""
        cache = self._copy_slots(cache, admission.early_copies)
        waiting = sorted(admission.prefills, key=lambda prefill: (len(prefill[1]), prefill[0]))
        while waiting:
            time = prefill_time(len(waiting[-1][1]))
            rows = next((size for size in PREFILL_PROMPTS if len(waiting) <= size), PREFILL_PROMPTS[-1])
            num_prompts = max(1, min(rows, PREFILL_TOKENS // time))
            if self._batch_invariant:  # only prompts that would be padded to this length alone
                alike = sum(prefill_time(len(prefix)) == time for _, prefix in waiting)
                num_now = min(alike, num_prompts)
            else:
                num_now = min(len(waiting), num_prompts)
            now, waiting = waiting[-num_now:], waiting[:-num_now]
            tokens = np.zeros((num_prompts, time), np.int32)
            slots = np.full(num_prompts, self._num_slots, np.int32)  # outside: writes nothing
            for row, (slot, prefix) in enumerate(now):
                tokens[row, : len(prefix)] = prefix
                slots[row] = slot
            if self._batch_invariant:
                number = np.int32(len(now))
                cache = _prefill_each(self._weights, cache, tokens, slots, number, architecture=self._architecture)
            else:
                cache = _prefill(self._weights, cache, tokens, slots, architecture=self._architecture)
        return self._copy_slots(cache, admission.late_copies)

    def _copy_slots(self, cache: Cache, copies: tuple[tuple[int, int], ...]) -> Cache:
        if not copies:
            return cache
        pairs = np.zeros((2, self._num_slots), np.int32)
        pairs[:, : len(copies)] = np.asarray(copies, np.int32).T
        return _copy_prefix(cache, pairs[0], pairs[1], np.int32(len(copies)))

    def _collect(self, sampled: Sampled) -> None:
        """Appends a chunk's tokens to their requests and completes those that ended."""
        taken = [(index, request) for index, request in enumerate(self._slots) if request is not None]
        for row, (index, request) in enumerate(taken):
            count = int(sampled.counts[row])
            self._tokens_generated += count
            request.ids += sampled.ids[row, :count].tolist()
            request.behavior_logprobs += sampled.behavior_logprobs[row, :count].tolist()
            request.extend_spans(self._policy_version)
            if not sampled.active[row]:
                self._slots[index] = None
                if not request.future.done():
                    request.future.set_result(self._completion(request))

    def _completion(self, request: _Request) -> Completion:
        return Completion(
            token_ids=tuple(request.ids),
            behavior_logprobs=tuple(request.behavior_logprobs),
            finish_reason="stop" if request.ids[-1] in self._eos_ids else "length",
            policy_version=min(span.policy_version for span in request.spans),
            spans=tuple(request.spans) if len(request.spans) > 1 else (),
        )
