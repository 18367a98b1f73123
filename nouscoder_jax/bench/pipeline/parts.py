"""The engine and the judge of `bench.py pipeline`, on the virtual clock.

In: Traffic, speeds. Out: an `Engine` over servers that decode their sequences together, a judge with so many workers.
Completions carry their seed and whether they ended in place of their tokens: nothing in the loop looks at more.

A server's sequences all get a token in each decoding step, so that its progress is one number and a sequence ends where
that number reaches its own end: a server has one timer, moved when its set of sequences changes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
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
        self.policy_version = 0
        self.tokens = 0.0
        """Sampled so far, over all sequences."""
        self.busy_s = 0.0
        """With a sequence at least, and not standing still."""
        self.stopped_s = 0.0
        """Standing still."""
        self.is_loading = False
        """Takes no new sequences."""
        self._decode_step_s = decode_step_s
        self._ends: dict[asyncio.Future[None], float] = {}
        """Sequences under way, and the progress at which each ends."""
        self._progress = 0.0
        """Tokens of a sequence that would have run from the beginning."""
        self._since_s = now_s()
        self._stops = 0
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_running(self) -> int:
        """Sequences under way."""
        return len(self._ends)

    def start(self, num_tokens: int, ended: asyncio.Future[None]) -> None:
        """Begins a sequence; `ended` is set when its tokens are sampled, and cancelling it ends the sequence."""
        self.measure()
        self._ends[ended] = self._progress + num_tokens
        ended.add_done_callback(self._forget)
        self._empty.clear()
        self._set_timer()

    def stop(self, by: int = 1) -> None:
        """Stands still, its sequences kept, until `stop(-1)` has been called as often."""
        self.measure()
        self._stops += by
        self._set_timer()

    async def wait_empty(self) -> None:
        """Returns once no sequence is under way."""
        await self._empty.wait()

    def measure(self) -> None:
        """Brings progress and counts up to now."""
        elapsed_s, self._since_s = now_s() - self._since_s, now_s()
        if self._stops:
            self.stopped_s += elapsed_s
        elif self._ends:
            made = elapsed_s / self._decode_step_s(len(self._ends))
            self._progress += made
            self.tokens += made * len(self._ends)
            self.busy_s += elapsed_s

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ends and not self._stops:
            left = max(0.0, min(self._ends.values()) - self._progress)
            delay_s = left * self._decode_step_s(len(self._ends))
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._end_first)

    def _end_first(self) -> None:
        """Ends the first sequence, and all that end with it up to rounding."""
        self.measure()
        self._progress = max(self._progress, min(self._ends.values()))
        for ended in [one for one, end in self._ends.items() if end <= self._progress + 1e-6]:
            del self._ends[ended]
            if not ended.done():
                ended.set_result(None)
        self._changed()

    def _forget(self, ended: asyncio.Future[None]) -> None:
        if ended in self._ends:  # cancelled
            self.measure()
            del self._ends[ended]
            self._changed()

    def _changed(self) -> None:
        self._set_timer()
        if not self._ends:
            self._empty.set()


class VirtualEngine:
    """Servers with a common line: who asks first goes first, to the server with the fewest sequences."""

    name = "virtual"

    def __init__(self, servers: Sequence[Server], traffic: Traffic, *, reload_s: float, finishes: bool) -> None:
        """A server stands still for `reload_s` when new weights come; with `finishes` its sequences end before that."""
        self.servers = list(servers)
        self.policy_version = 0
        self.num_slots = sum(server.num_slots for server in servers)
        self._traffic = traffic
        self._reload_s, self._finishes = reload_s, finishes
        self._line: deque[tuple[int, asyncio.Future[None], asyncio.Future[int]]] = deque()
        """Tokens; set at the end; set to the policy version at the begin."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """The completion that the traffic has for the prompt and the seed, after its time."""
        sample = self._traffic.sample(prompt.problem_id, sampling.seed)
        loop = asyncio.get_running_loop()
        ended, version = loop.create_future(), loop.create_future()
        self._line.append((sample.num_tokens, ended, version))
        self._serve_line()
        try:
            await ended
        finally:
            self._serve_line()
        return Completion(
            token_ids=(sampling.seed, int(not sample.cut)),
            behavior_logprobs=(0.0, 0.0),
            finish_reason="length" if sample.cut else "stop",
            policy_version=version.result(),
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
            server.stop(-1)

    async def close(self) -> None:
        """Nothing is held."""

    async def _load(self, server: Server, policy_version: int) -> None:
        server.is_loading = True
        if self._finishes:
            await server.wait_empty()
        server.stop()
        await asyncio.sleep(self._reload_s)
        server.stop(-1)
        server.policy_version, server.is_loading = policy_version, False
        self._serve_line()

    def _serve_line(self) -> None:
        """Gives free slots to those who wait, in order."""
        while self._line:
            free = [one for one in self.servers if one.num_running < one.num_slots and not one.is_loading]
            if not free:
                return
            num_tokens, ended, version = self._line.popleft()
            if not ended.done():  # cancelled
                server = min(free, key=lambda one: one.num_running)
                version.set_result(server.policy_version)
                server.start(num_tokens, ended)


class VirtualJudge:
    """Judges `num_workers` programs at a time; who asks first is served first."""

    name = "virtual"

    def __init__(self, traffic: Traffic, *, num_workers: int) -> None:
        """Verdicts and seconds are the traffic's."""
        self.busy_s = 0.0
        """Summed over workers."""
        self._traffic = traffic
        self._workers = asyncio.Semaphore(num_workers)

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        """The verdict on the completion that `program_text` has put into the program."""
        outcome = Outcome.NO_PROGRAM
        async with self._workers:
            if program is not None:
                sample = self._traffic.sample(problem.problem_id, int(program))
                outcome = Outcome.ACCEPTED if sample.accepted else Outcome.WRONG_ANSWER
                await asyncio.sleep(sample.verify_s)
                self.busy_s += sample.verify_s
        return Verdict(outcome=outcome, tests_passed=0, tests_total=0, cpu_s=0.0, peak_memory_mib=0.0, detail="")


def program_text(token_ids: Sequence[int]) -> str:
    """The text of a completion of VirtualEngine: a program that is its seed; none where it was cut."""
    seed, ended = token_ids
    return f"```\n{seed}\n```" if ended else ""
