"""Every objective trains the tiny policy, over several seeds: `python scripts/bench.py objectives`.

In: options. Out: held-out pass@1 before and after training of every objective and seed, as a table, a JSON file, a
picture and a block of the README where asked for.

A loop over scripts/train.py, with the config's settings and only the objective and the seed changed. The run of
objective X and seed S lives in DIR/X-seed-S and prints into DIR/X-seed-S.log. A finished run is taken as it is, one
that has a checkpoint goes on from it: the same command again loses nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

from nouscoder_jax import cli
from nouscoder_jax.bench import machine
from nouscoder_jax.bench.options import add_outputs, at_least, numbers, some_of
from nouscoder_jax.bench.readme import write_block
from nouscoder_jax.bench.results import Report, markdown_table
from nouscoder_jax.config import LossConfig, UserError
from nouscoder_jax.metrics import names
from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.run_folder import RunFolder

BLOCK = "objectives"
"""Name of the README's block."""
OBJECTIVES = typing.get_args(typing.get_type_hints(LossConfig)["name"])
UPDATE_METRICS = (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE, names.ENTROPY)
"""Kept of every run as the mean over its steps and as the last step's."""
SUMMARY = ("pass_at_1_before", "pass_at_1_after", "steps", "seconds", "held_out_problems", "samples_per_problem")
_ROOT = Path(__file__).parents[2]
_TRAIN = _ROOT / "scripts" / "train.py"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py objectives`."""
    told = f"of {','.join(OBJECTIVES)} (default: all)"
    parser.add_argument("--objectives", default=list(OBJECTIVES), type=some_of(OBJECTIVES), metavar="NAMES", help=told)
    parser.add_argument("--seeds", default=[0, 1, 2], type=numbers(0), metavar="NUMBERS", help="default: 0,1,2")
    parser.add_argument("--config", default=Path("configs/tiny.py"), type=Path, metavar="FILE", help="the experiment")
    parser.add_argument("--num-steps", type=at_least(1), metavar="N", help="default: the config's")
    parser.add_argument("--runs-dir", default=Path("runs/objectives"), type=Path, metavar="DIR", help="%(default)s")
    add_outputs(parser, block=BLOCK)


def run(options: argparse.Namespace) -> int:
    """Trains what is not trained yet and reports. Returns 0, or 1 where a run failed. Raises UserError."""
    base = cli.load_config_file(options.config)
    facts = machine.describe(("jax", "flax", "optax"))
    options.runs_dir.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in options.seeds:  # outside: an interrupted bench has all objectives of the first seeds
        for objective in options.objectives:
            overrides = ["--loss.name", objective, "--seed", str(seed)]
            overrides += [] if options.num_steps is None else ["--num-steps", str(options.num_steps)]
            runs.append(train(objective, seed, overrides, options))
            print(_line(runs[-1]), file=sys.stderr, flush=True)
    config = cli.apply_overrides(base, overrides)
    settings = {
        "command": _command(options),
        "config": _shown(options.config),
        "objectives": options.objectives,
        "seeds": options.seeds,
        "num_steps": config.num_steps,
        "clip_low": config.loss.clip_low,
        "clip_high": config.loss.clip_high,
        "learning_rate": config.optimizer.learning_rate,
        "updates_per_batch": config.experience.updates_per_batch,
        "temperature": config.evaluation.temperature,
    }
    content = {**facts, "settings": settings, "runs": runs}
    failed = [one for one in runs if one["error"]]
    heads, *rows = table(content)
    found = Report(
        bench="objectives", facts=facts, heads=heads, rows=rows, content={"settings": settings, "runs": runs},
        notes=[*map(_line, failed), footer(content)], panels=panels(content),
    )  # fmt: skip
    found.finish(options)
    if options.readme and not failed:
        write_block(options.readme, BLOCK, markdown(content))
    return 1 if failed else 0


def train(objective: str, seed: int, overrides: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Starts the run, resumes it or finds it finished; its result, with `error` where there is none."""
    folder = RunFolder(path=options.runs_dir / f"{objective}-seed-{seed}")
    updates: dict[str, dict[str, float]] = {}
    found = {"objective": objective, "seed": seed, "error": "", "updates": updates} | dict.fromkeys(SUMMARY)
    if folder.config.exists():
        wanted = cli.apply_overrides(cli.load_config_file(options.config), overrides).flatten()
        stored = folder.read_config(option="--runs-dir").flatten()
        if other := [name for name in wanted if name != "run_dir" and wanted[name] != stored.get(name)]:
            raise UserError(f"{folder.path} holds a run with another {', '.join(other)}; give another --runs-dir")
    if not _summary(folder).get("finished"):
        resumed = folder.checkpoints.is_dir() and any(path.name.isdigit() for path in folder.checkpoints.iterdir())
        arguments = ["--config", str(options.config), "--run-dir", str(folder.path), *overrides]
        arguments = ["--resume", str(folder.path)] if resumed else arguments
        log = folder.path.with_suffix(".log")
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, str(_TRAIN), *arguments], stdout=file, stderr=subprocess.STDOUT)
        if not _summary(folder).get("finished"):
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            return found | {"error": f"exit code {done.returncode}: {' | '.join(said)}"}
    lines = [line for line in read_jsonl(folder.metrics) if line[names.STEP]]
    for name in UPDATE_METRICS:
        if values := [value for line in lines if (value := line.get(name)) is not None]:
            updates[name] = {"mean": round(statistics.fmean(values), 5), "last": round(values[-1], 5)}
    return found | {name: _summary(folder)[name] for name in SUMMARY}


def table(content: dict[str, Any]) -> list[list[str]]:
    """The cells: the head, the line before training, a line an objective; from what the JSON file holds."""
    seeds, runs = content["settings"]["seeds"], content["runs"]
    rows = [["objective", *(f"seed {seed}" for seed in seeds), "mean", "clipped low / high", "entropy", "s a run"]]
    means = []
    for seed in seeds:
        before = [one["pass_at_1_before"] for one in runs if one["seed"] == seed and not one["error"]]
        means.append([statistics.fmean(before)] if before else [])
    of_all = _percent([mean for values in means for mean in values])
    rows.append(["before training", *map(_percent, means), of_all, "", "", ""])
    for objective in content["settings"]["objectives"]:
        done = [one for one in runs if one["objective"] == objective and not one["error"]]
        after = {one["seed"]: one["pass_at_1_after"] for one in done}
        cells = [_percent([after[seed]]) if seed in after else "failed" for seed in seeds]
        low, high = (_update(done, name, "mean", 100.0) for name in (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE))
        entropy = _update(done, names.ENTROPY, "last")
        seconds = f"{statistics.fmean(one['seconds'] for one in done):.0f}" if done else "-"
        clipped = f"{low:.2f} % / {high:.2f} %"
        rows.append(
            [f"`{objective}`", *cells, _percent(list(after.values())), clipped, f"{entropy:.3f}", seconds]
        )  # fmt: skip
    return rows


def markdown(content: dict[str, Any]) -> str:
    """The block of the README: the table, the command, the settings that all objectives share."""
    heads, *rows = table(content)
    text = markdown_table(["held-out pass@1", *heads[1:]], rows)
    return f"{text}\n\n`{content['settings']['command']}`. {footer(content)}\n"


def footer(content: dict[str, Any]) -> str:
    """What the figures are, the settings that all objectives share, where they were measured."""
    settings, hardware = content["settings"], content["hardware"]
    sizes = next((one for one in content["runs"] if not one["error"]), dict.fromkeys(SUMMARY))
    return (
        f"{sizes['held_out_problems']} problems x {sizes['samples_per_problem']} samples, temperature "
        f"{settings['temperature']:g}, before and after {settings['num_steps']} steps; mean ± standard deviation over "
        "seeds. Clipped: share of trained tokens whose ratio was clipped from below / above, mean over steps and "
        "seeds. Entropy: nats a token in the last step. "
        f"All have the settings of `{settings['config']}` (clip {settings['clip_low']:g} below, "
        f"{settings['clip_high']:g} above, learning rate {settings['learning_rate']:g}, "
        f"{settings['updates_per_batch']} updates a batch) and differ in `--loss.name` alone. "
        f"{hardware['cores']} cores ({hardware['cpu']}), {str(content['date'])[:10]}, commit {content['commit']}."
    )


def panels(content: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Of the picture: pass@1 of every run."""
    done = [one for one in content["runs"] if not one["error"]]
    after = {one["objective"]: [] for one in done}
    for one in done:
        after[one["objective"]].append(one["pass_at_1_after"])
    return {"held-out pass@1": {"before training": [one["pass_at_1_before"] for one in done]} | after}


def _summary(folder: RunFolder) -> dict[str, Any]:
    """What the run wrote at its end; empty: it has not."""
    return json.loads(folder.summary.read_text(encoding="utf-8")) if folder.summary.exists() else {}


def _line(one: dict[str, Any]) -> str:
    name = f"{one['objective']}-seed-{one['seed']}"
    if one["error"]:
        return f"failed: {name}: {one['error']}"
    told = f"{one['pass_at_1_before']:.1%} before, {one['pass_at_1_after']:.1%} after {one['steps']} steps"
    return f"{name}: held-out pass@1 {told}, {one['seconds']:.0f} s"


def _update(runs: list[dict[str, Any]], name: str, which: str, factor: float = 1.0) -> float:
    """Mean over runs of the mean or the last of a metric of the update; NaN: no run has it."""
    values = [factor * one["updates"][name][which] for one in runs if name in one["updates"]]
    return statistics.fmean(values) if values else float("nan")


def _percent(shares: list[float]) -> str:
    """The mean, and the standard deviation where there are several."""
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.fmean(shares):.1f}{deviation} %" if shares else "-"


def _shown(file: Path) -> str:
    file = file.resolve()
    return str(file.relative_to(_ROOT)) if file.is_relative_to(_ROOT) else file.name


def _command(options: argparse.Namespace) -> str:
    command = f"python scripts/bench.py objectives --config {_shown(options.config)}"
    command += "" if options.objectives == list(OBJECTIVES) else f" --objectives {','.join(options.objectives)}"
    command += f" --seeds {','.join(map(str, options.seeds))}"
    return command + ("" if options.num_steps is None else f" --num-steps {options.num_steps}")
