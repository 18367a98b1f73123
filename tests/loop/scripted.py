"""An engine and a judge that follow a script, on whatever clock the event loop has."""

import asyncio
import hashlib
from pathlib import Path

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.loop.collect import make_collector
from nouscoder_jax.loop.groups import Drawer, GroupMaker, NoJournal, Position
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.extract import Extracted, published_program
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.types import Completion, EngineError, JudgeError, Outcome, Problem, Prompt, Sampling, Verdict


def chance(*key) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=6).digest(), "big") / 2**48


class ScriptedEngine:
    """Slots; a completion takes as long as `seconds(sampling)` says and is the seed's parity as a text."""

    name = "scripted"

    def __init__(self, *, num_slots=16, seconds=lambda sampling: 0.001 * (sampling.seed % 7), policy_version=5):
        self.num_slots, self.policy_version = num_slots, policy_version
        self._seconds = seconds
        self._slots = asyncio.Semaphore(num_slots)
        self.answered: list[float] = []
        self.asked: list[int] = []
        self.failure: EngineError | None = None

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.asked.append(sampling.seed)
        async with self._slots:
            version = self.policy_version
            await asyncio.sleep(self._seconds(sampling))
        if self.failure:
            raise self.failure
        self.answered.append(asyncio.get_running_loop().time())
        return Completion(
            token_ids=(sampling.seed % 2, 1),
            behavior_logprobs=(-0.5, -0.5),
            finish_reason="stop",
            policy_version=version,
        )

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        self.policy_version = policy_version

    async def prove(self, probe: Probe) -> Drift:
        return Drift(mean=0.0, largest=0.0)

    async def release_memory(self) -> None:
        return None

    async def resume_memory(self) -> None:
        return None

    async def close(self) -> None:
        return None


class ScriptedJudge:
    """Accepts what `accepts` says; fails where `fails` says."""

    name = "scripted"

    def __init__(self, accepts, *, fails=lambda problem, program: False, seconds=0.001):
        self.accepts, self.fails, self.seconds = accepts, fails, seconds
        self.first_asked: float | None = None

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        self.first_asked = self.first_asked or asyncio.get_running_loop().time()
        await asyncio.sleep(self.seconds)
        if self.fails(problem, program):
            raise JudgeError("the engine is gone")
        outcome = Outcome.ACCEPTED if self.accepts(problem, program) else Outcome.WRONG_ANSWER
        return Verdict(outcome=outcome, tests_passed=0, tests_total=8, cpu_s=0.0, peak_memory_mib=0.0, detail="")


def by_parity(problem: Problem, program: str | None) -> bool:
    """Right answers are odd."""
    return program is not None and program.strip() == "1"


START = Position(next_group_id=0, stream_state=None, pending=())


def scripted_collector(config: TrainConfig, engine, judge, *, position=START, first_step=0, meter=None):
    """A collector over the first problems of the config; needs a running event loop."""
    problems = read_problems(Path(config.data.problems))[:48]
    clock = asyncio.get_running_loop().time
    maker = GroupMaker(
        config,
        engine=engine,
        judge=judge,
        journal=NoJournal(),
        problems=problems,
        prompts={p.problem_id: Prompt(problem_id=p.problem_id, token_ids=(3,)) for p in problems},
        decode=lambda ids: f"```python\n{ids[0]}\n```",
        extract=lambda prompt, completion, text: Extracted(published_program(text), False),
        timer=StageTimer(clock=clock),
        meter=meter or SlotMeter(clock=clock),
        on_finished=lambda stage: None,
    )
    return make_collector(
        config,
        Drawer(problem_stream(len(problems), seed=0), position),
        maker,
        first_step=first_step,
        on_progress=lambda stage, done, total: None,
    )
