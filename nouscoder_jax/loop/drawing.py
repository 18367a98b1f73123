"""What the batches of a run are made of: its problems in a shuffled order, its engine, its judge, its journal; or what
an Atropos server hands over.

In: a run's components, where drawing stands. Out: a Collector.
"""

from __future__ import annotations

from collections import Counter

from nouscoder_jax.config import UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.loop.groups import GroupMaker, Position
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.pulled import PullCollector, PulledGroups
from nouscoder_jax.loop.recorder import Recorder
from nouscoder_jax.loop.replay import ReplayingCollector, resume_collecting
from nouscoder_jax.loop.setup import Components
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.run_folder import RunFolder


def draw_batches(
    components: Components,
    engine: Engine,
    journal: Journal,
    folder: RunFolder,
    position: Position,
    *,
    vocab_size: int,
    recorder: Recorder,
    display: Display,
) -> ReplayingCollector:
    """The collector of the run, from `position` on; `recorder` has its clocks, `display` shows its progress. Groups
    from elsewhere have tokens below `vocab_size`."""
    if components.config.rollout.source == "atropos":
        return _pull_batches(
            components, engine, journal, folder, position, vocab_size=vocab_size, recorder=recorder, display=display
        )
    if any(draw.problem_index < 0 for draw in position.pending):
        raise UserError(
            f"{len(position.pending)} groups of the run came from an Atropos server and wait for their batch; go on "
            "with --rollout.source atropos, or from a checkpoint without such groups (--resume-step)"
        )
    config, train = components.config, components.train
    of_a_step = config.rollout.groups_per_step * config.rollout.group_size
    finished: Counter[str] = Counter()

    def count(stage: str) -> None:
        finished[stage] += 1
        display.progress(stage, done=(finished[stage] - 1) % of_a_step + 1, total=of_a_step)

    maker = GroupMaker(
        config,
        engine=engine,
        judge=components.judge,
        journal=journal,
        problems=train.problems,
        prompts=train.prompts,
        decode=components.prompt_maker.decode,
        extract=components.extract,
        timer=recorder.timer,
        meter=recorder.meter,
        on_finished=count,
    )
    stream = problem_stream(len(train.problems), seed=config.seed)
    return resume_collecting(
        config,
        stream,
        maker,
        journal,
        position,
        on_progress=lambda stage, done, total: display.progress(stage, done=done, total=total),
    )


def _pull_batches(
    components: Components,
    engine: Engine,
    journal: Journal,
    folder: RunFolder,
    position: Position,
    *,
    vocab_size: int,
    recorder: Recorder,
    display: Display,
) -> ReplayingCollector:
    config = components.config
    source = PulledGroups(
        config,
        folder,
        journal,
        decode=components.prompt_maker.decode,
        vocab_size=vocab_size,
        policy_version=lambda: engine.policy_version,
        timer=recorder.timer,
        say=display.line,
    )

    def begin(following: Position, first_step: int) -> PullCollector:
        return PullCollector(
            source,
            journal,
            following,
            config=config,
            first_step=first_step,
            on_progress=lambda stage, done, total: display.progress(stage, done=done, total=total),
        )

    return ReplayingCollector(journal, source, begin, position=position)
