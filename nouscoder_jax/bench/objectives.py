"""Every objective trains the tiny policy, over several seeds: `python scripts/bench.py objectives`.

In: options. Out: held-out pass@1 before and after training of every objective and seed, as a table, a JSON file, a
picture and a block of the README where asked for; all made from what the JSON file holds.

Each run is `scripts/train.py` in a process of its own, one after the other, with the config's settings and only the
objective and the seed changed. The run of objective X and seed S lives in DIR/X-seed-S; beside it stand X-seed-S.log,
what the process printed, and X-seed-S.sessions.json, on which commit it was started and resumed. A finished run is
taken as it is, an unfinished one goes on from its newest checkpoint: the same command again loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax import cli
from nouscoder_jax.bench import machine
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, chosen, numbers
from nouscoder_jax.bench.readme import write_block
from nouscoder_jax.bench.results import Report, markdown_table, picture
from nouscoder_jax.config import LossConfig, TrainConfig, UserError
from nouscoder_jax.metrics import names
from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.run_folder import RunFolder

BLOCK = "objectives"
"""Name of the README's block."""
OBJECTIVES = typing.get_args(typing.get_type_hints(LossConfig)["name"])
"""Every objective that the config knows."""
UPDATE_METRICS = (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE, names.ENTROPY, names.RATIO_MAX)
"""Kept of every run as the mean over its steps and as the last step's; one that no line has is left out."""
_SUMMARY = ("pass_at_1_before", "pass_at_1_after", "steps", "seconds", "held_out_problems", "samples_per_problem")

_ROOT = Path(__file__).parents[2]
_TRAIN = _ROOT / "scripts" / "train.py"
_REASON_LINES = 3
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
"""Okabe and Ito's colours, which colour-blind readers tell apart; and a pattern each for those who see none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run to make.

    Example:
        Planned(objective="dapo", seed=0, runs_dir=Path("runs/objectives"), config_file=Path("configs/tiny.py"),
                overrides=("--loss.name", "dapo", "--seed", "0"), config=config)
    """

    objective: str
    seed: int
    runs_dir: Path
    config_file: Path
    overrides: tuple[str, ...]
    """Arguments of scripts/train.py besides the config file and the run folder."""
    config: TrainConfig
    """What the config file and the overrides make together."""

    @property
    def name(self) -> str:
        """Of the folder and of the files beside it."""
        return f"{self.objective}-seed-{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where the run is kept."""
        return RunFolder(path=self.runs_dir / self.name)

    def summary(self) -> dict[str, Any]:
        """What the run wrote at its end; empty: it has not."""
        path = self.folder.summary
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def sessions(self) -> list[dict[str, Any]]:
        """One entry for each time the run was started or resumed."""
        path = self.runs_dir / f"{self.name}.sessions.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py objectives`."""
    every = ",".join(OBJECTIVES)
    parser.add_argument("--objectives", default=every, metavar="NAMES", help="default: all, %(default)s")
    parser.add_argument("--seeds", default="0,1,2", metavar="NUMBERS", help="default: %(default)s")
    parser.add_argument("--config", default=Path("configs/tiny.py"), type=Path, metavar="FILE", help="the experiment")
    parser.add_argument("--num-steps", type=int, metavar="N", help="default: the config's")
    parser.add_argument(
        "--runs-dir", default=Path("runs/objectives"), type=Path, metavar="DIR",
        help="where runs are kept and found again (default: %(default)s)",
    )  # fmt: skip
    add_outputs(parser, plot=True, block=BLOCK)


def run(options: argparse.Namespace) -> int:
    """Trains what is not trained yet and reports. Returns 0, or 1 where a run failed. Raises UserError."""
    objectives, seeds = _check(options)
    planned = plan(options, objectives, seeds)
    finished = [is_finished(one) for one in planned]  # before hours of training: one of them may be another run
    facts = machine.describe(("jax", "flax", "optax"))
    runs = []
    with _terminated_as_interrupted():
        for number, (one, done) in enumerate(zip(planned, finished, strict=True), start=1):
            result = read_result(one, reused=True) if done else train(one, commit=str(facts["commit"]))
            print(f"{line(result)} ({number} of {len(planned)} runs)", file=sys.stderr, flush=True)
            runs.append(result)
    facts["load_after"] = round(os.getloadavg()[0], 2)
    return _report(facts, _settings(options, planned[0].config, objectives, seeds), runs, options)


def plan(options: argparse.Namespace, objectives: list[str], seeds: list[int]) -> list[Planned]:
    """Every run, seed by seed, so that an interrupted bench has all objectives of the first seeds. Raises UserError
    where the config is wrong."""
    base = cli.load_config_file(options.config)
    runs = []
    for seed in seeds:
        for objective in objectives:
            overrides = ("--loss.name", objective, "--seed", str(seed))
            overrides += () if options.num_steps is None else ("--num-steps", str(options.num_steps))
            runs.append(
                Planned(
                    objective=objective, seed=seed, runs_dir=options.runs_dir, config_file=options.config,
                    overrides=overrides, config=cli.apply_overrides(base, overrides),
                )
            )  # fmt: skip
    return runs


def is_finished(planned: Planned) -> bool:
    """Whether the folder holds this very run, done. Raises UserError where it holds a run with another config."""
    path = planned.folder.config
    if not path.exists():
        return False
    try:
        stored = planned.folder.read_config(option="--runs-dir")
    except UserError as error:
        raise UserError(f"{path.parent} holds a run of another version ({error}); give another --runs-dir") from error
    wanted, got = planned.config.flatten(), stored.flatten()
    other = [name for name in wanted if name != "run_dir" and wanted[name] != got[name]]
    if other:
        told = ", ".join(f"{name} {got[name]}, not {wanted[name]}" for name in other[:3])
        raise UserError(f"{path.parent} holds a run with another config ({told}); give another --runs-dir")
    return bool(planned.summary().get("finished"))


def train(planned: Planned, *, commit: str) -> dict[str, Any]:
    """Starts the run, or resumes it where its folder holds a checkpoint; what came out. Ctrl-C lets it write a
    checkpoint; a second one kills it."""
    folder, log = planned.folder, planned.runs_dir / f"{planned.name}.log"
    planned.runs_dir.mkdir(parents=True, exist_ok=True)
    resumed = folder.checkpoints.is_dir() and any(path.name.isdigit() for path in folder.checkpoints.iterdir())
    if not resumed and folder.config.exists():
        shutil.rmtree(folder.path)  # ended before its first checkpoint: there is nothing to go on from
    sessions = [*(planned.sessions() if resumed else []), {"commit": commit}]
    (planned.runs_dir / f"{planned.name}.sessions.json").write_text(json.dumps(sessions) + "\n", encoding="utf-8")
    place = ["--run-dir", str(folder.path)]
    new = ["--config", str(planned.config_file), *place, *planned.overrides]
    arguments = ["--resume", str(folder.path)] if resumed else new
    print(f"{planned.name}: {'resumed' if resumed else 'started'}, its output is in {log}", file=sys.stderr)
    code = _train(arguments, log)
    if code == 0 and folder.config.exists() and is_finished(planned):
        return read_result(planned, reused=False)
    lines = [text.strip() for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    said = " | ".join(lines[-_REASON_LINES:]) or "it printed nothing"
    return _result(planned, error=f"exit code {code}: {said}")


def _train(arguments: list[str], log: Path) -> int:
    command = [sys.executable, str(_TRAIN), *arguments]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        return process.wait()
    except KeyboardInterrupt:
        told = "interrupted: waiting for a checkpoint (again: stop at once); the same command goes on from there"
        print(told, file=sys.stderr, flush=True)
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with everything that it has started
            process.wait()


def read_result(planned: Planned, *, reused: bool) -> dict[str, Any]:
    """The result of a finished run, from its folder. `reused`: it was finished before this bench started."""
    summary = planned.summary()
    lines = [line for line in read_jsonl(planned.folder.metrics) if line[names.STEP]]
    updates = {}
    for name in UPDATE_METRICS:
        values = [value for line in lines if (value := line.get(name)) is not None]
        if values:
            updates[name] = {"mean": round(sum(values) / len(values), 5), "last": round(values[-1], 5)}
    shares = [line.get(names.SOLVED_SHARE) for line in lines]
    return _result(
        planned,
        reused=reused,
        **{name: summary[name] for name in (*_SUMMARY, "sandbox")},
        solved_share=[None if share is None else round(share, 3) for share in shares],
        updates=updates,
    )


def _result(planned: Planned, **found: Any) -> dict[str, Any]:
    """One run as the JSON file holds it; `error`: why there is no result."""
    empty = dict.fromkeys(_SUMMARY) | {"sandbox": "", "solved_share": [], "updates": {}}
    kept = {"objective": planned.objective, "seed": planned.seed, "error": "", "reused": False}
    return kept | empty | {"sessions": planned.sessions()} | found


def line(result: dict[str, Any]) -> str:
    """One run in one line."""
    name = f"{result['objective']}-seed-{result['seed']}"
    if result["error"]:
        return f"{name}: failed: {result['error']}"
    told = f"{name}: held-out pass@1 {result['pass_at_1_before']:.1%} before, {result['pass_at_1_after']:.1%} after "
    told += f"{result['steps']} steps, {result['seconds']:.0f} s"
    return told + (", taken from its run folder, finished earlier" if result["reused"] else "")


def _report(
    facts: dict[str, Any], settings: dict[str, Any], runs: list[dict[str, Any]], options: argparse.Namespace
) -> int:
    content = {**facts, "settings": settings, "runs": runs}
    failed = [one for one in runs if one["error"]]
    heads, *rows = table(content)
    told = [f"failed: {one['objective']}, seed {one['seed']}: {one['error']}" for one in failed]
    found = Report(
        bench="objectives", facts=facts, load_matters=False, title="objectives: held-out pass@1", heads=heads,
        rows=rows, notes=[*told, footer(content)], content={"settings": settings, "runs": runs},
    )  # fmt: skip
    found.show(machine.console(width_chars=160))
    found.write(options.out)
    if options.plot:
        plot(options.plot, content)
    if options.readme and failed:
        print(f"{options.readme} is left as it is: {len(failed)} runs failed", file=sys.stderr)
    elif options.readme:
        write_block(options.readme, BLOCK, markdown(content))
    return 1 if failed else 0


def table(content: dict[str, Any]) -> list[list[str]]:
    """The cells: the head, the line before training, a line an objective; from what the JSON file holds."""
    seeds, runs = content["settings"]["seeds"], content["runs"]
    rows = [["objective", *(f"seed {seed}" for seed in seeds), "mean", "clipped low / high", "entropy", "s a run"]]
    of_seed = [_values([one for one in runs if one["seed"] == seed], "pass_at_1_before") for seed in seeds]
    means = [[statistics.mean(values)] if values else [] for values in of_seed]
    of_all = _percent([mean for values in means for mean in values])
    rows.append(["before training", *map(_percent, means), of_all, "", "", ""])
    for objective in content["settings"]["objectives"]:
        done = _of(runs, objective)
        found = {one["seed"]: _percent([one["pass_at_1_after"]]) for one in done}
        cells = [*(found.get(seed, "failed") for seed in seeds), _percent(_values(done, "pass_at_1_after"))]
        shares = [_update(done, name, "mean") for name in (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE)]
        cells += [" / ".join("-" if share is None else f"{100 * share:.2f} %" for share in shares)]
        entropy, seconds = _update(done, names.ENTROPY, "last"), _values(done, "seconds")
        cells += ["-" if entropy is None else f"{entropy:.3f}", f"{statistics.mean(seconds):.0f}" if seconds else "-"]
        rows.append([f"`{objective}`", *cells])
    return rows


def markdown(content: dict[str, Any]) -> str:
    """The block of the README: the table, the command, the settings that all objectives share."""
    heads, *rows = table(content)
    text = markdown_table(["held-out pass@1", *heads[1:]], rows)
    command = content["settings"]["command"].partition(" --jobs")[0]  # older records ran several at a time
    return f"{text}\n\n`{command}`. {footer(content)}\n"


def footer(content: dict[str, Any]) -> str:
    """What the figures are, the settings that all objectives share, where they were measured."""
    settings, done = content["settings"], [one for one in content["runs"] if not one["error"]]
    parts = []
    if done:
        parts.append(
            f"{done[0]['held_out_problems']} problems x {done[0]['samples_per_problem']} samples, temperature "
            f"{settings['temperature']:g}, before and after {settings['num_steps']} steps; mean ± standard deviation "
            "over seeds. Clipped: share of trained tokens whose ratio was clipped from below / above, mean over steps "
            "and seeds. Entropy: nats a token in the last step."
        )
    parts.append(
        f"All have the settings of `{settings['config']}` (clip {settings['clip_low']:g} below, "
        f"{settings['clip_high']:g} above, learning rate {settings['learning_rate']:g}, "
        f"{settings['updates_per_batch']} updates a batch) and differ in `--loss.name` alone."
    )
    hardware, date = content["hardware"], str(content["date"])[:10]
    jobs = settings.get("jobs", 1)
    together = f"{jobs} runs at a time, each on one core" if jobs > 1 else "one run at a time"
    parts.append(f"{hardware['cores']} cores ({hardware['cpu']}), {date}, commit {_commits(content)}; {together}.")
    return " ".join(parts)


def plot(path: Path, content: dict[str, Any]) -> None:
    """Left: held-out pass@1 of every run (points) and its mean (bar), the mean before training as a line. Right: the
    mean over seeds of training's solved share, step by step."""
    title = f"{content['settings']['config']}, commit {_commits(content)}, {str(content['date'])[:10]}"
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False, "fontsize": 9}
    with picture(path, 1, 2, title=title, figsize=(11, 5)) as (left, right):
        for place, objective in enumerate(content["settings"]["objectives"]):
            done, color = _of(content["runs"], objective), _COLORS[place % len(_COLORS)]
            _plot_after(left, place, _values(done, "pass_at_1_after"), color=color)
            curves = [one["solved_share"] for one in done]
            steps = [[share for share in step if share is not None] for step in zip(*curves, strict=False)]
            points = [(number, statistics.mean(step)) for number, step in enumerate(steps, start=1) if step]
            if points:
                dashes, marker = _DASHES[place % len(_DASHES)], "o" if len(points) == 1 else None
                right.plot(*zip(*points, strict=True), color=color, linestyle=dashes, marker=marker, label=objective)
        if before := _values(content["runs"], "pass_at_1_before"):
            told = f"before training: {statistics.mean(before):.1%}"
            left.axhline(statistics.mean(before), color="0.35", linestyle="--", linewidth=1.2, label=told)
        objectives = content["settings"]["objectives"]
        left.set(title="held-out pass@1 after training", xlim=(-0.6, len(objectives) - 0.4))
        left.set_xticks(range(len(objectives)), objectives)
        right.set(title="training problems: solved share, mean over seeds", xlabel="step")
        for axes in (left, right):
            axes.set(ylim=(0, 1.09), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])  # room for a label above a point at 1
            axes.yaxis.set_major_formatter("{x:.0%}")
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(ncols=3, **below)


def _plot_after(axes: Any, place: int, after: list[float], *, color: str) -> None:
    if not after:
        axes.text(place, 0.02, "failed", ha="center", va="bottom", color="0.4")
        return
    mean = statistics.mean(after)
    spots = [place + 0.14 * (number - (len(after) - 1) / 2) for number in range(len(after))]
    axes.scatter(spots, after, color=color, s=32, zorder=3, label="a seed" if place == 0 else None)
    ends = (place - 0.33, place + 0.33)
    axes.plot(ends, (mean, mean), color=color, linewidth=2.2, label="their mean" if place == 0 else None)
    above: dict[str, Any] = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(f"{mean:.1%}", (place, max(after)), fontsize=9, color="0.15", **above)


def _of(runs: list[dict[str, Any]], objective: str) -> list[dict[str, Any]]:
    """The runs of one objective that have a result."""
    return [one for one in runs if one["objective"] == objective and not one["error"]]


def _values(runs: list[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in runs if one[name] is not None]


def _update(runs: list[dict[str, Any]], name: str, which: str) -> float | None:
    """Mean over runs of the mean or the last of a metric of the update; None: no run has it."""
    values = [one["updates"][name][which] for one in runs if name in one["updates"]]
    return statistics.mean(values) if values else None


def _percent(shares: list[float]) -> str:
    """The mean, and the standard deviation where there are several."""
    if not shares:
        return "-"
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation} %"


def _commits(content: dict[str, Any]) -> str:
    """That on which the runs were trained; several where they were not all trained on one."""
    commits = [session["commit"] for one in content["runs"] for session in one["sessions"]]
    return ", ".join(dict.fromkeys(commits)) or str(content["commit"])


def _settings(
    options: argparse.Namespace, config: TrainConfig, objectives: list[str], seeds: list[int]
) -> dict[str, Any]:
    """What was asked for, and the config's values that a reader of the table wants to know."""
    file = options.config.resolve()
    shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else Path(file.name)
    command = f"python scripts/bench.py objectives --config {shown}"
    command += "" if objectives == list(OBJECTIVES) else f" --objectives {','.join(objectives)}"
    command += f" --seeds {','.join(map(str, seeds))}"
    return {
        "command": command + ("" if options.num_steps is None else f" --num-steps {options.num_steps}"),
        "config": str(shown),
        "objectives": objectives,
        "seeds": seeds,
        "num_steps": config.num_steps,
        "clip_low": config.loss.clip_low,
        "clip_high": config.loss.clip_high,
        "learning_rate": config.optimizer.learning_rate,
        "updates_per_batch": config.experience.updates_per_batch,
        "temperature": config.evaluation.temperature,
    }


def _check(options: argparse.Namespace) -> tuple[list[str], list[int]]:
    """The objectives and the seeds. Raises UserError."""
    objectives, seeds = chosen("objectives", options.objectives, OBJECTIVES), numbers("seeds", options.seeds)
    if not seeds:
        raise UserError("--seeds is empty; give at least one, or leave the option out")
    check_numbers(options, "num_steps")
    check_outputs(options, block=BLOCK)
    if options.runs_dir.exists() and not options.runs_dir.is_dir():
        raise UserError(f"--runs-dir got {options.runs_dir}, a file; give a folder")
    return objectives, seeds


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C, so that no run outlives the bench."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
