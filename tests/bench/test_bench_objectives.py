"""`bench.py objectives`: every run is made once, none is lost, none is taken for another, and a failure is told."""

import argparse
import dataclasses
import fcntl
import functools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.bench import objectives, objectives_report, objectives_runs
from nouscoder_jax.bench.objectives_runs import RunResult
from nouscoder_jax.bench.readme import read_block
from nouscoder_jax.config import UserError

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.py"
KEPT = ROOT / "tests" / "baselines" / "objectives.json"

TRAIN = """
import json, os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--run-dir") + 1])
(folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text((WANTED / folder.name).read_text())
(folder / f"{time.time_ns()}.try").write_text(" ".join(sys.argv[1:]))
finished = True
HOOK
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in LINES))
(folder / "summary.json").write_text(json.dumps(SUMMARY | {"finished": finished}))
"""
LINES = [
    {"step": 0, "held_out/pass_at_1": 0.25},
    {"step": 1, "solved_share": 0.12345, "update/entropy": 0.5, "update/clip_low_share": 0.01},
    {"step": 2, "solved_share": None, "update/entropy": 0.25, "update/clip_low_share": 0.03, "update/ratio_max": None},
]
SUMMARY = {
    "finished": True,
    "pass_at_1_before": 0.25,
    "pass_at_1_after": 0.5,
    "steps": 2,
    "seconds": 61.5,
    "held_out_problems": 64,
    "samples_per_problem": 16,
    "sandbox": "local",
}


@pytest.fixture
def train_script(tmp_path, monkeypatch):
    """Writes a script that takes scripts/train.py's place, with lines of its own before the run ends."""
    monkeypatch.setattr(objectives, "_POLL_S", 0.02)
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    for one in planned(tmp_path, names=("dapo", "gspo")):
        (wanted / one.name).write_text(one.config.to_json())

    def write(hook: str) -> Path:
        made = TRAIN.replace("HOOK", hook)
        for name, value in {"LINES": LINES, "SUMMARY": SUMMARY, "WANTED": str(wanted)}.items():
            made = made.replace(name, f"Path({value!r})" if name == "WANTED" else repr(value))
        path = tmp_path / "train.py"
        path.write_text(made)
        return path

    return write


@functools.cache
def parsed(names, seeds, num_steps: int | None):
    """Reading the command line takes half a second under the checks of annotations."""
    return objectives_runs.plan(
        TINY, objectives=list(names), seeds=list(seeds), num_steps=num_steps, runs_dir=Path("runs")
    )


def planned(tmp_path, *, names=("dapo",), seeds=(0,), num_steps: int | None = 2):
    runs = parsed(names, seeds, num_steps)
    return [dataclasses.replace(one, runs_dir=tmp_path / "runs") for one in runs]


def train(runs, script, *, jobs=1):
    said = []
    finished = {one.name for one in runs if objectives_runs.is_finished(one)}
    results = objectives.train_all(runs, finished, jobs=jobs, commit="abc", train_script=script, say=said.append)
    return results, said


def put_run(one, *, summary=SUMMARY, lines=LINES):
    """A run folder as train.py leaves it."""
    folder = one.folder
    folder.checkpoints.mkdir(parents=True)
    folder.write_config(dataclasses.replace(one.config, run_dir="elsewhere"))
    folder.write_summary(summary)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tries(one):
    return [path.read_text() for path in sorted(one.folder.path.glob("*.try"))]


def options(*arguments):
    parser = argparse.ArgumentParser()
    objectives.add_options(parser)
    return parser.parse_args(["--config", str(TINY), *arguments])


def content(**changes):
    """A small result: two objectives, two seeds."""
    runs = []
    for name, after in (("grpo", (0.5, 0.6)), ("gspo_plus", (0.4, 0.4))):
        for seed in (0, 1):
            one = RunResult(objective=name, seed=seed, steps=2, seconds=60.0 + 20 * seed, sandbox="local")
            one.pass_at_1_before, one.pass_at_1_after = (0.2, 0.22)[seed], after[seed]
            one.held_out_problems, one.samples_per_problem, one.solved_share = 64, 16, [0.2, 0.3]
            one.updates = {
                "update/clip_low_share": {"mean": 0.01, "last": 0.5},
                "update/clip_high_share": {"mean": 0.02, "last": 0.5},
                "update/entropy": {"mean": 9.0, "last": 0.25},
            }
            one.sessions = [{"commit": "abc", "jobs": 2, "pinned_to_one_core": True}]
            runs.append(objectives_runs.as_dict(one))
    settings = {
        "command": "python scripts/bench.py objectives --seeds 0,1",
        "config": "configs/tiny.py",
        "objectives": ["grpo", "gspo_plus"],
        "seeds": [0, 1],
        "num_steps": 2,
        "jobs": 2,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "learning_rate": 4e-4,
        "updates_per_batch": 2,
        "temperature": 1.0,
    }
    hardware = {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0}
    made = {"bench": "objectives", "date": "2026-11-23T10:00:00", "commit": "def", "hardware": hardware}
    return made | {"settings": settings, "runs": runs} | changes


def test_all_objectives_of_the_config_are_trained_unless_told_otherwise():
    assert options().objectives == "grpo,dr_grpo,dapo,gspo,gspo_plus,cispo"


def test_a_run_differs_from_the_config_in_objective_seed_and_steps_alone(tmp_path):
    (one,) = planned(tmp_path, names=("gspo",), seeds=(3,), num_steps=None)
    (other,) = planned(tmp_path, names=("gspo",), seeds=(4,), num_steps=7)
    differ = {name for name, value in one.config.flatten().items() if other.config.flatten()[name] != value}
    assert (one.config.loss.name, one.config.seed, differ) == ("gspo", 3, {"seed", "num_steps"})


def test_a_run_folder_is_read_with_its_curve_and_the_metrics_of_its_updates(tmp_path):
    (one,) = planned(tmp_path)
    put_run(one)
    result = objectives_runs.read_result(one, reused=True)
    assert (result.pass_at_1_before, result.pass_at_1_after, result.seconds) == (0.25, 0.5, 61.5)
    assert result.solved_share == [0.123, None]
    assert result.updates == {
        "update/clip_low_share": {"mean": 0.02, "last": 0.03},
        "update/entropy": {"mean": 0.375, "last": 0.25},
    }


def test_a_finished_run_is_taken_as_it_is_and_said_so(tmp_path, train_script):
    (one,) = planned(tmp_path)
    put_run(one)
    (result,), said = train([one], train_script("sys.exit('it was trained again')"))
    assert result.reused and not result.error and tries(one) == []
    assert "finished earlier" in said[0]


def test_runs_that_are_not_there_are_trained_by_the_command_of_the_readme(tmp_path, train_script):
    runs = planned(tmp_path, names=("dapo", "gspo"))
    results, _ = train(runs, train_script(""))
    assert [(one.objective, one.pass_at_1_after, one.error, one.reused) for one in results] == [
        ("dapo", 0.5, "", False),
        ("gspo", 0.5, "", False),
    ]
    folder = tmp_path / "runs" / "gspo-seed-0"
    assert tries(runs[1]) == [f"--config {TINY} --run-dir {folder} --loss.name gspo --seed 0 --num-steps 2"]
    trained = cli.load_config(tries(runs[1])[0].split(), default_config="")
    assert dataclasses.replace(trained, run_dir="") == runs[1].config
    assert results[0].sessions == [{"commit": "abc", "jobs": 1, "pinned_to_one_core": False}]


def test_a_run_that_fails_is_a_row_with_its_last_lines_and_the_others_go_on(tmp_path, train_script):
    runs = planned(tmp_path, names=("dapo", "gspo"))
    hook = "if 'dapo' in folder.name: print('first'); sys.exit('error: no luck today')"
    (failed, fine), said = train(runs, train_script(hook))
    assert failed.error == "exit code 1: first | error: no luck today"
    assert fine.error == "" and any("no luck today" in line for line in said)


def test_an_unfinished_run_is_resumed_and_both_sessions_are_told(tmp_path, train_script):
    (one,) = planned(tmp_path)
    train([one], train_script("sys.exit(1)"))
    (result,), _ = train([one], train_script(""))
    assert tries(one)[1] == f"--resume {one.folder.path}"
    assert result.error == "" and len(result.sessions) == 2


def test_a_run_that_stopped_in_good_order_before_its_end_is_no_result(tmp_path, train_script):
    (one,) = planned(tmp_path)
    (result,), _ = train([one], train_script("finished = False"))
    assert result.error.startswith("exit code 0")


def test_a_run_without_a_checkpoint_starts_again(tmp_path, train_script):
    (one,) = planned(tmp_path)
    put_run(one, summary={"finished": False})
    (one.folder.path / "left over").touch()
    (result,), _ = train([one], train_script(""))
    assert tries(one)[0].startswith("--config") and not result.error
    assert not (one.folder.path / "left over").exists()  # train.py refuses a folder that holds something


def test_a_run_with_another_config_is_not_taken_for_this_one(tmp_path):
    (one,) = planned(tmp_path)
    put_run(one)
    (other,) = planned(tmp_path, num_steps=3)
    with pytest.raises(UserError, match=r"num_steps 2, not 3.*--runs-dir"):
        objectives_runs.is_finished(other)


def test_a_run_that_another_process_is_training_is_left_alone(tmp_path, train_script):
    (one,) = planned(tmp_path)
    one.runs_dir.mkdir()
    with one.log.open("w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (result,), _ = train([one], train_script(""))
    assert "another process is training" in result.error and tries(one) == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_of_two_at_a_time_each_has_one_core_of_its_own(tmp_path, train_script):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs 2 cores")
    before = os.sched_getaffinity(0)
    runs = planned(tmp_path, names=("dapo", "gspo"))
    hook = "(folder / 'core').write_text(str(os.sched_getaffinity(0)))"
    results, _ = train(runs, train_script(hook), jobs=2)
    assert [one.error for one in results] == ["", ""]
    cores = [(one.folder.path / "core").read_text() for one in runs]
    assert sorted(cores) == [f"{{{core}}}" for core in sorted(before)[:2]]
    assert os.sched_getaffinity(0) == before


def test_an_interrupted_bench_has_its_run_write_a_checkpoint_and_waits_for_it(tmp_path, train_script):
    (one,) = planned(tmp_path)
    hook = """
signal.signal(signal.SIGINT, lambda *_: ((folder / 'asked').touch(), sys.exit(0)))
(folder / 'ready').touch()
time.sleep(60)"""

    def interrupt_when_ready():
        while not (one.folder.path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_ready, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train([one], train_script(hook))
    assert (one.folder.path / "asked").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--objectives", "dapo,ppo"], "--objectives got ppo; the objectives are grpo"),
        (["--objectives", ","], "--objectives is empty"),
        (["--seeds", "0,-1,x"], "--seeds got -1 x; use whole numbers"),
        (["--seeds", ""], "--seeds is empty"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--num-steps", "0"], "--num-steps is 0"),
        (["--config", "none.py"], "config file none.py does not exist"),
        (["--out", "no/such/out.json"], "--out got no/such/out.json"),
        (["--plot", "."], "--plot got ., a folder"),
        (["--runs-dir", __file__], "a file; give a folder"),
        (["--readme", "none.md"], "there is no such file"),
        (["--readme", __file__], "objectives: begin .* 0 times"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(arguments, told, tmp_path):
    with pytest.raises(UserError, match=told):
        objectives.run(options("--runs-dir", str(tmp_path / "runs"), *arguments))
    assert not (tmp_path / "runs").exists()


def test_the_command_writes_json_picture_and_readme_and_ends_with_0(tmp_path, train_script, monkeypatch):
    monkeypatch.setattr(objectives, "_TRAIN", train_script(""))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- objectives: begin (x) -->\n<!-- objectives: end -->\n")
    paths = {name: tmp_path / name for name in ("out.json", "plot.png")}
    asked = ["--objectives", "dapo", "--seeds", "0", "--num-steps", "2", "--runs-dir", str(tmp_path / "runs")]
    asked += ["--out", str(paths["out.json"]), "--plot", str(paths["plot.png"]), "--readme", str(readme)]
    assert objectives.run(options(*asked)) == 0
    kept = json.loads(paths["out.json"].read_text())
    assert str(tmp_path) not in paths["out.json"].read_text()
    assert kept["settings"]["command"].endswith("--config configs/tiny.py --objectives dapo --seeds 0 --num-steps 2")
    assert read_block(readme.read_text(), "objectives") == objectives_report.markdown(kept).strip("\n")
    assert paths["plot.png"].read_bytes().startswith(b"\x89PNG")


def test_the_command_ends_with_1_and_leaves_the_readme_where_a_run_failed(tmp_path, train_script, monkeypatch, capsys):
    monkeypatch.setattr(objectives, "_TRAIN", train_script("sys.exit('error: no luck today')"))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- objectives: begin (x) -->\n<!-- objectives: end -->\n")
    asked = ["--objectives", "dapo", "--seeds", "0", "--num-steps", "2", "--runs-dir", str(tmp_path / "runs")]
    assert objectives.run(options(*asked, "--plot", str(tmp_path / "p.png"), "--readme", str(readme))) == 1
    assert "failed: dapo, seed 0: exit code 1: error: no luck today" in capsys.readouterr().out
    assert readme.read_text().count("\n") == 2


def test_the_markdown_has_a_row_an_objective_with_mean_and_deviation_over_seeds():
    lines = objectives_report.markdown(content()).splitlines()
    head = "| held-out pass@1 | seed 0 | seed 1 | mean | clipped low / high | entropy | s a run |"
    assert lines[:2] == [head, "|---|---:|---:|---:|---:|---:|---:|"]
    assert lines[2] == "| before training | 20.0 % | 22.0 % | 21.0 ± 1.4 % |  |  |  |"
    assert lines[3] == "| `grpo` | 50.0 % | 60.0 % | 55.0 ± 7.1 % | 1.00 % / 2.00 % | 0.250 | 70 |"
    assert lines[4] == "| `gspo_plus` | 40.0 % | 40.0 % | 40.0 ± 0.0 % | 1.00 % / 2.00 % | 0.250 | 70 |"
    assert lines[6].startswith("`python scripts/bench.py objectives --seeds 0,1`. 64 problems x 16 samples")
    assert "commit abc; 2 runs at a time, each on one core." in lines[6]


def test_a_failed_run_is_a_cell_and_counts_in_no_mean():
    runs = content()["runs"]
    runs[1] = objectives_runs.as_dict(RunResult(objective="grpo", seed=1, error="out of luck"))
    shown = objectives_report.markdown(content(runs=runs)).splitlines()[3]
    assert shown.startswith("| `grpo` | 50.0 % | failed | 50.0 % |")


def test_the_picture_is_drawn_also_where_every_run_failed(tmp_path):
    runs = [objectives_runs.as_dict(RunResult(objective="grpo", seed=0, error="out of luck"))]
    objectives_report.plot(tmp_path / "failed.png", content(runs=runs))
    assert (tmp_path / "failed.png").stat().st_size > 1000


def test_the_table_in_the_readme_is_the_kept_measurement():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not KEPT.exists() or "<!-- objectives: begin" not in text:
        pytest.skip("not measured yet, or the README has no block `objectives` yet")
    assert read_block(text, "objectives") == objectives_report.markdown(json.loads(KEPT.read_text())).strip("\n")
