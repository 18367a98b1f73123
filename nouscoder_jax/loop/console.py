"""What a run says at its beginning and at its end.

In: its components, its folder, where it stands. Out: lines for people, the picture of held-out pass@1, summary.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.setup import Components
from nouscoder_jax.loop.start import Start
from nouscoder_jax.metrics.plot import plot_pass_at_1
from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import abstract_model
from nouscoder_jax.run_folder import RunFolder


def introduce(
    components: Components,
    architecture: Architecture,
    folder: RunFolder,
    started: Start,
    journal: Journal,
    *,
    say: Callable[[str], None],
) -> None:
    """The first lines: what judges, what is trained on, what was left out, where a resumed run goes on."""
    say(f"sandbox: {components.judge.name}")
    say(f"run folder: {folder.path}")
    num_params = sum(leaf.size for leaf in jax.tree.leaves(abstract_model(architecture)))
    mesh = components.config.mesh
    processes = f" in {mesh.num_processes} processes" if mesh.num_processes > 1 else ""
    say(
        f"policy: {components.config.model.path} ({num_params / 1e6:.2f} million parameters) on {mesh.num_devices} x "
        f"{jax.devices()[0].device_kind}{processes}"
    )
    longest = components.config.data.max_prompt_tokens
    for name, problem_set in (("training", components.train), ("held-out", components.held_out)):
        left_out = (
            f", {problem_set.num_left_out} left out: prompt longer than {longest} tokens"
            if problem_set.num_left_out
            else ""
        )
        source = components.config.rollout.source_url
        if name == "training" and source:
            say(f"training groups: from the Atropos server at {source}")
            continue
        say(f"{name} problems: {len(problem_set.problems)}{left_out}")
    if started.resumed:
        progress = started.progress
        say(
            f"resumed after step {progress.step} with policy v{progress.policy_version}; the journal has "
            f"{len(journal)} groups that need not be generated again"
        )
        if progress.step >= components.config.num_steps:
            again = resume_command(folder, components.config)
            say(f"nothing to train: all {components.config.num_steps} steps are done; to go further: {again}")


def finish(
    components: Components,
    folder: RunFolder,
    progress: Progress,
    *,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    """Picture, summary and last lines of a run that stands where `progress` says."""
    config, step = components.config, progress.step
    group_size = config.rollout.group_size
    lines = read_jsonl(folder.metrics)
    held_out = _curve(lines, "held_out/pass_at_1")
    training = _curve(lines, "solved_share")
    plot_pass_at_1(folder.plot, held_out, training=training, title=f"{config.name}, seed {config.seed}")
    differing = int(sum(value for _, value in _curve(lines, "programs/rules_differ")))
    finished = step >= config.num_steps
    shares = dict(held_out)
    before, after = shares.get(0), shares.get(step) if finished else None
    summary: dict[str, Any] = {
        "finished": finished,
        "pass_at_1_before": before,
        "pass_at_1_after": after,
        "steps": step,
        "seconds": round(seconds, 1),
        "seed": config.seed,
        "policy_version": progress.policy_version,
        "extract_rules_differ": differing,
        "rollouts": progress.metrics(group_size=group_size),
        "training_problems_left_out": components.train.num_left_out,
        "held_out_problems": len(components.held_out.problems),
        "samples_per_problem": config.evaluation.samples_per_problem,
        "sandbox": components.judge.name,
    }
    folder.write_summary(summary)
    for line in progress.table(group_size=group_size):
        say(line)
    other = "markdown" if config.data.extract_rule == "original" else "original"
    say(f"data.extract_rule {config.data.extract_rule}: {other!r} takes another program from {differing} completions")
    if finished:
        say(
            f"held-out pass@1: {_share(before)} before, {_share(after)} after {step} steps ({summary['seconds']:.0f} s)"
        )
    else:
        say(f"stopped after step {step}; everything up to it is kept")
    say(f"run folder: {folder.path} (weights for transformers in export/, curve in pass_at_1.png)")
    say(f"resume: {resume_command(folder, config if finished else None)}")


def resume_command(folder: RunFolder, finished: TrainConfig | None) -> str:
    """The command that goes on with the run; with twice the steps where it is finished."""
    more = f" --num-steps {2 * finished.num_steps}" if finished else ""
    return folder.resume_command + more


def _share(measured: float | None) -> str:
    return "not measured" if measured is None else f"{measured:.1%}"


def _curve(lines: Sequence[Mapping[str, int | float | None]], name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, where it was measured."""
    return [(int(line["step"] or 0), value) for line in lines if (value := line.get(name)) is not None]
