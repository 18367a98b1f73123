"""Where a run starts: at the weights that its config names, or where an earlier session of it has come.

In: a trainer, a run folder, how the run goes on. Out: a trainer that has weights, a folder that holds a run, `Start`,
the run's journal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.loop.changes import config_hash
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.open_folder import Resume, begin, refuse_a_run
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.turns import rewind
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a session starts.

    Example:
        Start(progress=Progress(step=8, ...), resumed=True, has_begun=True)
    """

    progress: Progress
    resumed: bool
    has_begun: bool
    """Whether the weights are those of a step that has been finished."""

    @property
    def finished_step(self) -> int | None:
        """The last finished step of a resumed run, -1 where it has none; None for a new run."""
        return (self.progress.step if self.has_begun else -1) if self.resumed else None


def start(trainer: Trainer, folder: RunFolder, resume: Resume | None, *, config: TrainConfig) -> Start:
    """Gives the trainer its weights: with `resume` those of a checkpoint, if there is one, else the base model's. The
    folder has the config then; that of a resumed run keeps its own until the weights are there.

    Raises UserError, ProcessLostError.
    """
    if resume is None:
        refuse_a_run(folder)
        begin(folder, config, after_step=0)
        trainer.open(folder.checkpoints)
        trainer.start()
        return Start(progress=Progress(), resumed=False, has_begun=False)
    trainer.open(folder.checkpoints)
    if resume.step is None and not trainer.has_checkpoint():
        trainer.start()
        started = Start(progress=Progress(), resumed=True, has_begun=False)
    else:
        started = Start(progress=Progress(**trainer.restore(resume.step)), resumed=True, has_begun=True)
    begin(folder, config, after_step=started.progress.step)
    if resume.step is not None:  # the journal is of what came after a later checkpoint
        shutil.rmtree(folder.journal, ignore_errors=True)
    return started


def open_journal(config: TrainConfig, folder: RunFolder, started: Start, *, say: Callable[[str], None]) -> Journal:
    """The journal; of a resumed run, what it had written of later steps is taken away and comes again."""
    journal = Journal(folder.journal, config_hash=config_hash(config), say=say)
    if started.finished_step is not None:
        rewind(folder, journal, started.progress, step=started.finished_step)
    return journal
