"""A world on a virtual clock in which the host side of a run is killed, and goes on, again and again.

What runs is the loop's own code: sampler, pool, collectors, turns, journal, resume. Scripted are the engine, the
sandbox, the update, the writing of checkpoints, and what goes wrong, all by one number: the same seed gives the same
world. A kill copies the run folder as it is at that moment; the next session begins with the copy.
"""

import asyncio
import contextlib
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from scripted import ScriptedEngine, chance
from small import make_config

from nouscoder_jax.bench.pipeline.virtual_clock import now_s, run_virtually
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.experience.filters import assign_advantages
from nouscoder_jax.loop.changes import config_hash
from nouscoder_jax.loop.groups import GroupMaker
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.replay import ReplayingCollector, resume_collecting
from nouscoder_jax.loop.turns import Turns, record, rewind
from nouscoder_jax.metrics.sinks import JsonlSink
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.extract import Extracted, published_program
from nouscoder_jax.rollout.sampler import sample_seed
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import (
    Comparison,
    Completion,
    EngineError,
    ExecutionStatus,
    JudgeError,
    Problem,
    Prompt,
    Sampling,
    TestCase,
)
from nouscoder_jax.verifier.judge import Judge, SandboxJudge
from nouscoder_jax.verifier.sandbox import Execution, Limits, RunnerLostError, SandboxOutError

UPDATES = 2
GROUP_SIZE = 3
MOST_SESSIONS = 80
COMPARISON = Comparison(kind="exact", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
PROBLEMS = [
    Problem(
        problem_id=f"p{number}",
        statement="Print one.",
        tests=(TestCase(input="", expected="1\n"),),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=1.0,
        memory_limit_mib=None,
        comparison=COMPARISON,
        source="simulated",
        family="",
    )
    for number in range(200)
]
PROMPTS = {problem.problem_id: Prompt(problem_id=problem.problem_id, token_ids=(3,)) for problem in PROBLEMS}


def config_of(seed: int) -> TrainConfig:
    """On-policy, one or two steps ahead, by turns; small, with little room in every queue."""
    return make_config(
        seed=seed,
        num_steps=5,
        rollout={"groups_per_step": 4, "group_size": GROUP_SIZE, "max_staleness": seed % 3},
        verifier={"num_workers": 3, "outage_limit_s": 50.0},
        experience={"updates_per_batch": UPDATES, "max_draws_per_batch": 3},
        checkpoint={"every_steps": 1 + seed // 3 % 3, "keep_best": 1},
        evaluation={"every_steps": 2},
    )


class Engine(ScriptedEngine):
    """Slots. What a completion is depends on its seed and the weights; when it comes, and whether, on the session."""

    def __init__(self, world: "World") -> None:
        super().__init__(num_slots=3 if world.luck("slots") < 0.4 else 24, policy_version=0)
        self.world = world

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.asked.append(sampling.seed)
        async with self._slots:
            version, luck = self.policy_version, self.world.luck("engine", sampling.seed)
            await asyncio.sleep(400.0 if luck > 0.995 else 30 * luck if luck > 0.8 else 4 * luck)
            if luck < 0.001:
                raise EngineError("no server is left")
        numbers = [sampling.seed, version, int(chance("answer", sampling.seed, version) < 0.5)]
        ids = (*numbers, *range(sampling.seed % 5))
        logprobs = tuple(-chance("logprob", sampling.seed, version, place) for place in range(len(ids)))
        return Completion(
            token_ids=ids, behavior_logprobs=logprobs, policy_version=version,
            finish_reason="length" if sampling.seed % 11 == 0 else "stop",
        )  # fmt: skip

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        await asyncio.sleep(self.world.luck("reload", policy_version))
        self.policy_version = policy_version


def decode(ids) -> str:
    return f"```python\nprint({ids[2]})  # seed {ids[0]}, v{ids[1]}\n```"


class Session:
    """One program. Some are never judged, some lose their runner each time, some only the first time."""

    clean = True

    def __init__(self, world: "World", program: str) -> None:
        self.world, self.program = world, program

    async def run(self, stdin: str) -> Execution:
        fate, luck = chance(self.world.seed, "program", self.program), self.world.luck("sandbox", self.program)
        attempt = self.world.attempts[self.program] = self.world.attempts.get(self.program, 0) + 1
        await asyncio.sleep(200.0 if luck > 0.99 else 2 * luck)
        if fate < 0.02:
            raise JudgeError("never judged")
        if fate < 0.04 or (luck < 0.05 and attempt == 1):
            raise RunnerLostError("the runner is gone")
        if luck < 0.1 and attempt <= 2:
            raise JudgeError("not now")
        printed = self.program.partition("print(")[2][:1] + "\n"
        return Execution(
            status=ExecutionStatus.EXITED, stdout=printed.encode(), cpu_s=0.0, wall_s=0.0, peak_memory_mib=0.0,
            detail="",
        )  # fmt: skip

    def retire(self) -> None:
        return None


class Sandbox:
    """Now and then nothing runs for a while."""

    name = "simulated"

    def __init__(self, world: "World") -> None:
        self.world = world

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits):
        if self._out():
            raise SandboxOutError("the sandboxes are gone")
        yield Session(self.world, program)

    async def probe(self) -> None:
        if self._out():
            raise JudgeError("still gone")

    async def close(self) -> None:
        return None

    def _out(self) -> bool:
        return self.world.luck("outage", now_s() // 60) < 0.04


class Store:
    """A Learner whose weights are a hash of all it was trained on, with Checkpoints written in the background."""

    def __init__(self, world: "World", engine: Engine, folder: RunFolder, progress: Progress, weights: str) -> None:
        self.world, self.engine, self.folder, self.progress, self.weights = world, engine, folder, progress, weights
        self.writing: asyncio.Task[None] | None = None
        self.failed: str | None = None

    def prepare(self, collected):
        config = self.world.config
        advantaged = assign_advantages(
            [group.experiences for group in collected.used], config=config.experience, group_size=GROUP_SIZE
        )  # fmt: skip
        return collected.with_used(advantaged)

    async def update(self, collected) -> dict[str, float]:
        if not collected.used:
            return {}
        for group in collected.used:
            for experience in group.experiences:
                for version in experience.rollout.completion.token_versions:
                    self.world.ages.append(self.progress.policy_version - version)
        await asyncio.sleep(5 * self.world.luck("update", collected.step))
        batch = [(e.rollout.text, e.reward, e.advantage, e.trainable) for g in collected.used for e in g.experiences]
        self.weights = hashlib.sha256(repr((self.weights, batch)).encode()).hexdigest()
        self.world.remember(collected.step, self.weights)
        self.progress.policy_version += UPDATES
        await self.engine.reload(self.folder.weights, policy_version=self.progress.policy_version)
        return {"update/loss": chance(self.weights)}

    async def evaluate(self) -> dict[str, float]:
        await asyncio.sleep(3.0)
        return {"held_out/pass_at_1": round(chance("pass", self.weights), 2)}

    async def save(self, pass_at_1: float | None) -> None:
        if self.failed:
            raise UserError(self.failed)
        stored = json.dumps({"weights": self.weights, "progress": record(copy.deepcopy(self.progress))})
        self.writing = asyncio.create_task(self._write(self.progress.step, stored, self.writing))

    async def _write(self, step: int, stored: str, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        await asyncio.sleep(self.world.checkpoint_s * self.world.luck("checkpoint", step) ** 2)
        if self.world.luck("disk full", step) < 0.02:
            self.failed = f"the checkpoint of step {step} could not be written (No space left on device)"
            return
        partial = self.folder.checkpoints / f"{step}.part"
        partial.write_text(stored)
        os.replace(partial, self.folder.checkpoints / f"{step}.json")

    def busy(self) -> bool:
        return self.writing is not None and not self.writing.done()

    def check(self) -> None:
        if self.failed:
            raise UserError(self.failed)

    def latest_step(self) -> int | None:
        return max((int(path.stem) for path in self.folder.checkpoints.glob("*.json")), default=None)

    async def close(self) -> None:
        if self.writing is not None:
            await asyncio.wait([self.writing])
        self.check()


class World:
    """One run from its first session to its last."""

    def __init__(self, seed: int, folder: Path, *, kills: bool, checkpoint_s: float = 20.0) -> None:
        """`checkpoint_s`: what writing a checkpoint takes at most."""
        self.checkpoint_s, self.seed, self.config, self.kills = checkpoint_s, seed, config_of(seed), kills
        self.parent, self.path = folder, folder / "session-0"
        RunFolder(path=self.path).rollouts.mkdir(parents=True)
        RunFolder(path=self.path).checkpoints.mkdir()
        self.number = 0
        self.states: dict[int, str] = {}
        self.ages: list[int] = []
        self.attempts: dict[str, int] = {}
        self.ends: list[str] = []
        self.asked: list[int] = []
        self.said: list[str] = []

    def luck(self, *key) -> float:
        """A number in [0, 1) that another session does not have."""
        return chance(self.seed, self.number, *key)

    def remember(self, step: int, weights: str) -> None:
        """Tokens of these weights may be about: should the step be trained again, it must give them again."""
        assert self.states.setdefault(step, weights) == weights, f"step {step} gave other weights the second time"

    def run(self) -> "World":
        """Sessions until one comes to the end."""
        while not self.ends or self.ends[-1] != "finished":
            assert self.number < MOST_SESSIONS, self.ends
            self.attempts.clear()
            self.ends.append(self._session())
            self.number += 1
            if self.ends[-1] == "killed":
                shutil.rmtree(self.path)
                self.path = self._next_path
        return self

    @property
    def _next_path(self) -> Path:
        return self.parent / f"session-{self.number}"

    def _session(self) -> str:
        self.was_killed = False
        with self._killing():
            try:
                run_virtually(self._main())
            except asyncio.CancelledError:
                assert self.was_killed
            except (EngineError, UserError) as error:
                return "killed" if self.was_killed else type(error).__name__
        return "killed" if self.was_killed else "finished"

    def _kill(self) -> None:
        """Nothing that this session does from now on is there for the next one."""
        if not self.was_killed:
            self.was_killed = True
            shutil.copytree(self.path, self.parent / f"session-{self.number + 1}")
            self.main.cancel()

    @contextlib.contextmanager
    def _killing(self) -> Iterator[None]:
        """While it lasts, the n-th file that gets its name is the end of the session, just before or just after."""
        replace, count = os.replace, 0
        last = int(60 * self.luck("file")) if self.kills else -1

        def counting(source, target) -> None:
            nonlocal count
            count += 1
            if count == last and last % 2:
                self._kill()
            replace(source, target)
            if count == last:
                self._kill()

        with mock.patch("os.replace", counting):
            yield

    async def _main(self) -> None:
        self.main = asyncio.current_task()
        clock = asyncio.create_task(self._kill_later()) if self.kills else None
        folder = RunFolder(path=self.path)
        progress, weights, has_begun = Progress(), "base", False
        if stored := sorted(folder.checkpoints.glob("*.json"), key=lambda path: int(path.stem)):
            newest = json.loads(stored[-1].read_text())
            progress, weights, has_begun = Progress(**newest["progress"]), newest["weights"], True
        engine, said = Engine(self), []
        engine.policy_version = progress.policy_version
        journal = Journal(folder.journal, config_hash=config_hash(self.config), say=said.append)
        store = Store(self, engine, folder, progress, weights)
        finished = progress.step if has_begun else -1
        rewind(folder, journal, progress, step=finished)
        sink = JsonlSink(folder.metrics, resume_step=finished)
        judge = SandboxJudge(Sandbox(self), self.config.verifier, stop_at_first_failure=True, say=said.append)
        kept = [int(path.name.split("-")[1]) for path in folder.journal.glob("group-*")]
        turns = Turns(
            self.config, progress=progress, journal=journal, folder=folder, learner=store, checkpoints=store,
            write=sink.write, say=said.append, clock=now_s,
        )  # fmt: skip
        try:
            if not has_begun:
                await turns.begin()
            await turns.run(self._collector(engine, judge, journal, progress), stopping=asyncio.Event())
            await store.close()
            journal.prune(store.latest_step() or 0)
        finally:
            self.asked += engine.asked
            sink.close()
            await judge.close()
            self.said += said
            if clock is not None:
                clock.cancel()
        again = {sample_seed(self.seed, group_id=g, sample_index=i) for g in kept for i in range(GROUP_SIZE)}
        assert not again & set(engine.asked), "a group of the journal was generated again"
        assert not [line for line in said if line.startswith("journal")], said

    async def _kill_later(self) -> None:
        await asyncio.sleep(250 * self.luck("time"))
        self._kill()

    def _collector(self, engine: Engine, judge: Judge, journal: Journal, progress: Progress) -> ReplayingCollector:
        stream = problem_stream(len(PROBLEMS), seed=self.seed)
        maker = GroupMaker(
            self.config, engine=engine, judge=judge, journal=journal, problems=PROBLEMS, prompts=PROMPTS,
            decode=decode,
            extract=lambda prompt, completion, text: Extracted(published_program(text), False),
            timer=StageTimer(clock=now_s), meter=SlotMeter(clock=now_s), on_finished=lambda stage: None,
        )  # fmt: skip

        return resume_collecting(
            self.config, stream, maker, journal, progress.position, on_progress=lambda stage, done, total: None
        )
