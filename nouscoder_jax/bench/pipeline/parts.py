"""The engine and the judge of `bench.py pipeline`, on the virtual clock.

In: Traffic, speeds. Out: an `Engine` over servers that decode their sequences together, a judge with so many workers.
Completions carry their seed and whether they ended in place of their tokens: nothing in the loop looks at more.

A server's sequences all get a token in each decoding step, so that its progress is one number and a sequence ends where
that number reaches its own end: a server has one timer, moved when its set of sequences changes.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nouscoder_jax.bench.pipeline.traffic import Traffic
from nouscoder_jax.bench.pipeline.virtual_clock import now_s
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.types import Completion, Outcome, Problem, Prompt, Sampling, Verdict


class Server:
    """Decodes up to `num_slots` sequences together."""

    def __init__(self, *, num_slots: int, decode_step_s: Callable[[int], float]) -> None:
        """`decode_step_s(n)`: seconds of a decoding step of n sequences. Needs a running event loop."""
        self.num_slots = num_slots
        self.num_running = 0
        """Sequences under way."""
        self.policy_version = 0
        self.tokens = 0.0
        """Sampled so far, over all sequences."""
        self.busy_s = 0.0
        """With a sequence at least, and not standing still."""
        self.sequence_s = 0.0
        """The same, summed over sequences."""
        self.stopped_s = 0.0
        """Standing still."""
        self.is_loading = False
        """Takes no new sequences."""
        self._decode_step_s = decode_step_s
        self._ends: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._progress = 0.0
        """Tokens of a sequence that would have run from the beginning."""
        self._since_s = now_s()
        self._stops = 0
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: list[asyncio.Future[None]] = []

    def start(self, num_tokens: int, ended: asyncio.Future[None]) -> None:
        """Begins a sequence; `ended` is set when its tokens are sampled, and cancelling it ends the sequence."""
        self.measure()
        heapq.heappush(self._ends, (self._progress + num_tokens, next(self._numbers), ended))
        self.num_running += 1
        ended.add_done_callback(self._forget)
        self._set_timer()

    def stop(self) -> None:
        """Stands still until as many calls of `go_on`; sequences keep what they have."""
        self.measure()
        self._stops += 1
        self._set_timer()

    def go_on(self) -> None:
        """Ends one `stop`."""
        self.measure()
        self._stops -= 1
        self._set_timer()

    async def wait_empty(self) -> None:
        """Returns once no sequence is under way."""
        while self._ends:
            self._emptied.append(asyncio.get_running_loop().create_future())
            await self._emptied[-1]

    def measure(self) -> None:
        """Brings progress and counts up to now."""
        elapsed_s, self._since_s = now_s() - self._since_s, now_s()
        if self._ends and not self._stops:
            made = elapsed_s / self._decode_step_s(len(self._ends))
            self._progress += made
            self.tokens += made * len(self._ends)
            self.busy_s += elapsed_s
            self.sequence_s += elapsed_s * len(self._ends)
        elif self._stops:
            self.stopped_s += elapsed_s

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ends and not self._stops:
            left = max(0.0, self._ends[0][0] - self._progress)
            delay_s = left * self._decode_step_s(len(self._ends))
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._end_first)

    def _end_first(self) -> None:
        """Ends the first sequence, and all that end with it up to rounding."""
        self._timer = None
        self.measure()
        self._progress = max(self._progress, self._ends[0][0])
        while self._ends and self._ends[0][0] <= self._progress + 1e-6:
            ended = heapq.heappop(self._ends)[2]
            if not ended.done():
                ended.set_result(None)
        self._changed()

    def _forget(self, ended: asyncio.Future[None]) -> None:
        if ended.cancelled():
            self.measure()
            self._ends = [entry for entry in self._ends if entry[2] is not ended]
            heapq.heapify(self._ends)
            self._changed()

    def _changed(self) -> None:
        self.num_running = len(self._ends)
        self._set_timer()
        if not self._ends:
            for waiting in self._emptied:
                waiting.set_result(None)
            self._emptied.clear()


@dataclass(eq=False, slots=True)
class _Request:
    num_tokens: int
    ended: asyncio.Future[None]
    policy_version: int = -1
    """Of the server that took it; -1: it is in the line."""


class VirtualEngine:
    """Servers with a common line: who asks first goes first, to the server with the fewest sequences."""

    name = "virtual"

    def __init__(self, servers: Sequence[Server], traffic: Traffic, *, reload_s: float, finishes: bool) -> None:
        """A server stands still for `reload_s` when new weights come; with `finishes` its sequences end before that."""
        self.servers = list(servers)
        self.policy_version = 0
        self.timeline: list[tuple[float, int]] = []
        """(time, sequences decoded) at every change."""
        self._traffic = traffic
        self._reload_s, self._finishes = reload_s, finishes
        self._line: deque[_Request] = deque()

    @property
    def num_slots(self) -> int:
        """Sequences decoded at once."""
        return sum(server.num_slots for server in self.servers)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """The completion that the traffic has for the prompt and the seed, after its time."""
        sample = self._traffic.sample(prompt.problem_id, sampling.seed)
        request = _Request(sample.num_tokens, asyncio.get_running_loop().create_future())
        self._line.append(request)
        self._serve_line()
        try:
            await request.ended
        finally:
            self._serve_line()
        return Completion(
            token_ids=(sampling.seed, int(not sample.cut)),
            behavior_logprobs=(0.0, 0.0),
            finish_reason="length" if sample.cut else "stop",
            policy_version=request.policy_version,
        )

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        """All servers at once; each takes sequences again when it has the weights."""
        await asyncio.gather(*(self._load(server, policy_version) for server in self.servers))
        self.policy_version = policy_version

    async def prove(self, probe: Probe) -> Drift:
        """Nothing is computed."""
        return Drift(mean=0.0, largest=0.0)

    async def release_memory(self) -> None:
        """Every server stands still."""
        for server in self.servers:
            server.stop()

    async def resume_memory(self) -> None:
        """They go on."""
        for server in self.servers:
            server.go_on()

    async def close(self) -> None:
        """Nothing is held."""

    async def _load(self, server: Server, policy_version: int) -> None:
        server.is_loading = True
        if self._finishes:
            await server.wait_empty()
        server.stop()
        await asyncio.sleep(self._reload_s)
        server.go_on()
        server.policy_version, server.is_loading = policy_version, False
        self._serve_line()

    def _serve_line(self) -> None:
        """Gives free slots to those who wait, in order."""
        while self._line:
            server = self._least_loaded()
            if server is None:
                break
            request = self._line.popleft()
            if not request.ended.done():  # cancelled
                request.policy_version = server.policy_version
                server.start(request.num_tokens, request.ended)
        self.timeline.append((now_s(), sum([server.num_running for server in self.servers])))

    def _least_loaded(self) -> Server | None:
        found = None
        for server in self.servers:
            free = server.num_running < server.num_slots and not server.is_loading
            if free and (found is None or server.num_running < found.num_running):
                found = server
        return found


class VirtualJudge:
    """Judges `num_workers` programs at a time; who asks first is served first."""

    name = "virtual"

    def __init__(self, traffic: Traffic, *, num_workers: int) -> None:
        """Verdicts and seconds are the traffic's."""
        self.busy_s = 0.0
        """Summed over workers."""
        self.waited_s = 0.0
        """Summed over programs: from being asked for until a worker takes it."""
        self.num_judged = 0
        self._traffic = traffic
        self._workers = asyncio.Semaphore(num_workers)

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        """The verdict on the completion that `program_text` has put into the program."""
        asked_s = now_s()
        accepted = False
        async with self._workers:
            self.waited_s += now_s() - asked_s
            if program is not None:
                sample = self._traffic.sample(problem.problem_id, int(program))
                accepted = sample.accepted
                await asyncio.sleep(sample.verify_s)
                self.busy_s += sample.verify_s
        self.num_judged += 1
        outcome = Outcome.ACCEPTED if accepted else Outcome.WRONG_ANSWER
        outcome = Outcome.NO_PROGRAM if program is None else outcome
        return Verdict(outcome=outcome, tests_passed=0, tests_total=0, cpu_s=0.0, peak_memory_mib=0.0, detail="")


def program_text(token_ids: Sequence[int]) -> str:
    """The text of a completion of VirtualEngine: a program that is its seed; none where it was cut."""
    seed, ended = token_ids
    return f"```\n{seed}\n```" if ended else ""
