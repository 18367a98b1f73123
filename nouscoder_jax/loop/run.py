"""One run, a line a stage; the diagram of who waits for whom is in nouscoder_jax/loop/__init__.py.

In: a TrainConfig, or a run folder to resume. Out: the run folder, lines on the console.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.loop import processes
from nouscoder_jax.loop.console import finish, introduce
from nouscoder_jax.loop.drawing import draw_batches
from nouscoder_jax.loop.interrupts import interruptible
from nouscoder_jax.loop.learner import PolicyLearner
from nouscoder_jax.loop.measured import check_metric_names
from nouscoder_jax.loop.open_folder import Resume, explain_write_errors, open_folder
from nouscoder_jax.loop.publish import make_publisher
from nouscoder_jax.loop.recorder import Recorder, open_sinks
from nouscoder_jax.loop.setup import Components, build, make_engine, serving
from nouscoder_jax.loop.start import open_journal, start
from nouscoder_jax.loop.threads import in_thread
from nouscoder_jax.loop.turns import Turns
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.hands import Crew
from nouscoder_jax.training.trainer import Trainer


def train(config: TrainConfig, *, resume: Resume | None) -> int:
    """Runs the experiment and returns the exit code. With `resume`, `config.run_dir` holds the run to continue.

    Raises UserError where the input is wrong or the disk is full, EngineError where generation fails for good,
    ConservationError where rollouts were lost, ProcessLostError.
    """
    processes.share_gpus(config)
    processes.serve_unless_head(config)
    with processes.gather_crew(config) as crew:
        processes.check_hardware(config)
        check_metric_names(config)
        components = build(config)
        trainer = processes.make_trainer(config, crew)
        folder = open_folder(config, resume, say=print)
        with serving(config, folder.servers, say=print) as urls, explain_write_errors(folder):
            running = _run(components, trainer, folder, resume=resume, urls=urls, crew=crew)
            asyncio.run(processes.while_whole(running, crew, folder))
    processes.leave(crew)
    return 0


async def _run(
    components: Components,
    trainer: Trainer,
    folder: RunFolder,
    *,
    resume: Resume | None,
    urls: Sequence[str],
    crew: Crew | None,
) -> None:
    config, judge = components.config, components.judge
    display = Display(num_steps=config.num_steps, stream=None)
    engine = make_engine(components, trainer.architecture, urls, say=display.line)  # the last that has to answer
    started = await in_thread(start, trainer, folder, resume, config=config)
    progress = started.progress
    display.at(progress.step)
    journal = open_journal(config, folder, started, say=display.line)
    sinks = open_sinks(config, folder, resume_step=started.finished_step)
    recorder = Recorder(config, sinks, progress=progress, breaker=judge.breaker, display=display)
    with display, interruptible(crew, say=display.line) as stopping:
        judge.breaker.say = display.line
        introduce(components, trainer.architecture, folder, started, journal, say=display.line)
        publisher = make_publisher(components, trainer, engine, folder, timer=recorder.timer)
        learner = PolicyLearner(
            components, trainer, engine, publisher, folder, progress=progress, recorder=recorder, display=display
        )
        turns = Turns(
            config, progress=progress, journal=journal, folder=folder, learner=learner, checkpoints=trainer,
            write=recorder.write, say=display.line,
        )  # fmt: skip
        async with AsyncExitStack() as at_end:  # in reverse: the engine first
            at_end.callback(recorder.close)
            at_end.push_async_callback(in_thread, trainer.close)
            at_end.push_async_callback(judge.close)
            at_end.push_async_callback(engine.close)
            await learner.publish()
            if not started.has_begun:
                await turns.begin()
            recorder.begin_steps(num_slots=engine.num_slots)
            collector = draw_batches(
                components, engine, journal, folder, progress.position,
                vocab_size=trainer.architecture.vocab_size, recorder=recorder, display=display,
            )  # fmt: skip
            await turns.run(collector, stopping=stopping)
        journal.prune(trainer.latest_step() or 0)
        await in_thread(trainer.export, folder.export, policy_version=progress.policy_version)
        finish(components, folder, progress, seconds=turns.seconds, say=display.line)
