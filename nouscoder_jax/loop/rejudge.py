"""Judges every stored program of a run again: what `scripts/verify.py --rejudge RUN_DIR` does.

In: a run folder, a judge's settings. Out: lines on the console, a file of changed verdicts, an exit code.

    step 1  read -> ask --+-> judge: equal programs once --> await --> effects on rewards and advantages --> lines
    step 2  read -> ask --+   the next step's programs are asked for before this one's are awaited
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.loop.rejudge_effects import Change, StepEffects, Totals, step_effects
from nouscoder_jax.loop.stored import StoredRollout, StoredStep, read_step, stored_steps
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import JudgeError, Problem, Verdict
from nouscoder_jax.verifier.judge import Judge, SandboxJudge, make_sandbox
from nouscoder_jax.verifier.labelled import changed, progress_bar

LINES_SHOWN = 50
"""Changed verdicts told on the console; the file has all of them."""


def rejudge(
    run_dir: Path,
    settings: Mapping[str, Any],
    *,
    problems: str | None,
    steps: tuple[int, int | None],
    out: Path | None,
    stop_at_first_failure: bool,
) -> int:
    """Judges again, tells what changed and what it would have done, and returns the exit code: 0 nothing changed, 1
    something did or could not be judged.

    `settings` (those that are not None) replace fields of the run's section `verifier`, `problems` its problem file.
    `steps`: the first and the last (None: the newest). `out` gets a line of JSON for each changed verdict, once all are
    judged. A run stops at a program's first failure. Raises UserError.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    folder = RunFolder(path=run_dir)
    config = folder.read_config(option="--rejudge")
    if config.rollout.source != "problems":
        raise UserError(
            f"{run_dir} was trained on groups from {config.rollout.source}, which others have scored; there are no "
            "programs to judge: give --rejudge a run with rollout.source problems"
        )
    config = replace(config, verifier=changed(config.verifier, settings))
    by_id = _problems(config, problems)
    numbers = stored_steps(folder, first=steps[0], last=steps[1])

    async def run() -> Totals:
        judge = SandboxJudge(
            make_sandbox(config.verifier),
            config.verifier,
            stop_at_first_failure=stop_at_first_failure,
            say=console.print,
        )
        console.print(judge.name)
        try:
            with _written_whole(out) as file, progress_bar(console) as progress:
                task = progress.add_task("steps", total=len(numbers))
                again = Rejudge(folder, config, by_id, judge)

                def finished(effects: StepEffects) -> None:
                    _tell(effects, told=again.totals.pairs.total(), say=console.print)
                    if file is not None:
                        file.writelines(json.dumps(change.to_dict()) + "\n" for change in effects.changes)
                    progress.advance(task)

                await again.run(numbers, on_step=finished)
                return again.totals
        finally:
            await judge.close()

    totals = asyncio.run(run())
    for line in totals.lines():
        console.print(line)
    return totals.exit_code


def parse_steps(text: str) -> tuple[int, int | None]:
    """First and last step: `5`, `3-8`, `3-` (to the newest), `-8`. Raises UserError."""
    first, dash, last = text.partition("-")
    if not re.fullmatch(r"\d*-\d*|\d+", text) or text == "-" or (dash and last and int(last) < int(first or 0)):
        raise UserError(f"--steps is {text!r}; use a step, as 5, or first-last, as 3-8, 3- or -8")
    return int(first or 0), (int(last) if last else None) if dash else int(first)


class Rejudge:
    """A run that is being judged again, step after step."""

    def __init__(self, folder: RunFolder, config: TrainConfig, problems: Mapping[str, Problem], judge: Judge) -> None:
        """`problems` by their id."""
        self.totals = Totals()
        self._folder, self._config, self._problems, self._judge = folder, config, problems, judge
        self._asked: dict[bytes, asyncio.Task[Verdict]] = {}
        """Digest of problem and program -> its verdict."""

    async def run(self, steps: Sequence[int], *, on_step: Callable[[StepEffects], None]) -> None:
        """Judges these steps; `on_step` is told of each before its changes enter the totals. Raises UserError."""
        try:
            reading = self._ask(steps[0])
            for following in [*steps[1:], None]:
                step, reading = reading, None if following is None else self._ask(following)
                assert step is not None
                effects = await self._effects(step)
                on_step(effects)
                self.totals.add(effects)
        finally:
            for task in self._asked.values():
                task.cancel()
            await asyncio.gather(*self._asked.values(), return_exceptions=True)
        self.totals.num_judged = len(self._asked)
        if not self.totals.num_rollouts:
            why = "; ".join(f"{number} lines: {why}" for why, number in self.totals.unreadable.most_common())
            raise UserError(
                f"no rollouts in {self._folder.path} can be used ({why or 'their groups are not whole'}); use the "
                "version that wrote them"
            )

    def _ask(self, number: int) -> StoredStep:
        """Reads a step and starts to judge what has not been asked before."""
        step = read_step(self._folder, number, group_size=self._config.rollout.group_size)
        for stored in step.rollouts:
            problem_id = stored.rollout.prompt.problem_id
            if problem_id not in self._problems:
                raise UserError(
                    f"step {number} of {self._folder.path} has a rollout of problem {problem_id!r}, which the problem "
                    "file does not have; give the file that the run was trained on with --problems"
                )
            if not stored.is_aborted and _key(stored) not in self._asked:
                judging = self._judge.judge(self._problems[problem_id], stored.rollout.program)
                self._asked[_key(stored)] = asyncio.create_task(judging)
        return step

    async def _effects(self, step: StoredStep) -> StepEffects:
        """Waits for the verdicts of a step."""
        totals = self.totals
        totals.num_rollouts += len(step.rollouts)
        totals.num_incomplete += step.num_incomplete
        totals.unreadable.update(step.unreadable)
        verdicts = [[await self._verdict(stored) for stored in group] for group in step.groups]
        return step_effects(step, verdicts, config=self._config)

    async def _verdict(self, stored: StoredRollout) -> Verdict | None:
        """The new one; the stored one where there is no new one."""
        if stored.is_aborted:
            self.totals.num_aborted += 1
            return stored.verdict
        try:
            return await self._asked[_key(stored)]
        except JudgeError:
            self.totals.num_failures += 1
            return stored.verdict


def _key(stored: StoredRollout) -> bytes:
    text = json.dumps([stored.rollout.prompt.problem_id, stored.rollout.program])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _problems(config: TrainConfig, other: str | None) -> dict[str, Problem]:
    """The training problems by their id. Raises UserError."""
    path = Path(other or config.data.problems)
    if not other and not path.exists():
        raise UserError(
            f"the run's problem file {path} is not here; give the same problems from elsewhere with --problems FILE"
        )
    return {problem.problem_id: problem for problem in read_problems(path)}


def _tell(effects: StepEffects, *, told: int, say: Callable[[str], None]) -> None:
    """The changes of one step, the first LINES_SHOWN of a run."""
    if effects.changes and told < LINES_SHOWN:
        say(
            f"step {effects.step}: {len(effects.changes)} verdicts changed, mean reward {effects.mean_change:+.4f}, "
            f"{effects.num_groups} groups used or dropped otherwise, {effects.num_advantages} other advantages"
        )
        for change in effects.changes[: LINES_SHOWN - told]:
            say(_line(change))
        if told + len(effects.changes) > LINES_SHOWN:
            say(f"  ... more than {LINES_SHOWN}; --out FILE has all of them")


def _line(change: Change) -> str:
    rollout, (old, new) = change.old.rollout, change.outcomes
    before, after = change.groups
    group = "" if before == after else f", group {before} -> {after}"
    return (
        f"  group {rollout.group_id} sample {rollout.sample_index} ({rollout.prompt.problem_id}): {old} -> {new}, "
        f"reward {_number(change.before.reward)} -> {_number(change.after.reward)}, advantage "
        f"{_number(change.before.advantage)} -> {_number(change.after.advantage)}{group}"
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3g}"


@contextlib.contextmanager
def _written_whole(path: Path | None) -> Iterator[TextIO | None]:
    """A file to write to, which gets its name when the block has ended well. Raises UserError."""
    if path is None:
        yield None
        return
    temporary = path.with_name(path.name + ".part")
    try:
        file = temporary.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another --out") from error
    try:
        with file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
