"""`bench.py objectives`: every run is made once, none is lost, none is taken for another, and a failure is told."""

import argparse
import dataclasses
import functools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.bench import objectives
from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.config import UserError

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.py"
KEPT = ROOT / "tests" / "baselines" / "objectives.json"

TRAIN = """
import json, os, signal, sys, time
from pathlib import Path
from nouscoder_jax.run_folder import RunFolder

folder = Path(sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--run-dir") + 1])
(RunFolder(path=folder).checkpoints / "1").mkdir(parents=True, exist_ok=True)
RunFolder(path=folder).config.write_text((WANTED / folder.name).read_text())
(folder / f"{time.time_ns()}.try").write_text(" ".join(sys.argv[1:]))
finished = True
HOOK
RunFolder(path=folder).metrics.write_text("".join(json.dumps(line) + "\\n" for line in LINES))
RunFolder(path=folder).summary.write_text(json.dumps(SUMMARY | {"finished": finished}))
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
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    for one in planned(tmp_path, names=("dapo", "gspo")):
        (wanted / one.name).write_text(one.config.to_json())

    def write(hook: str) -> None:
        made = TRAIN.replace("HOOK", hook)
        for name, value in {"LINES": LINES, "SUMMARY": SUMMARY, "WANTED": str(wanted)}.items():
            made = made.replace(name, f"Path({value!r})" if name == "WANTED" else repr(value))
        path = tmp_path / "train.py"
        path.write_text(made)
        monkeypatch.setattr(objectives, "_TRAIN", path)

    return write


@functools.cache
def parsed(names, seeds, num_steps: int | None):
    """Reading the command line takes half a second under the checks of annotations."""
    asked = options() if num_steps is None else options("--num-steps", str(num_steps))
    return objectives.plan(asked, list(names), list(seeds))


def planned(tmp_path, *, names=("dapo",), seeds=(0,), num_steps: int | None = 2):
    runs = parsed(names, seeds, num_steps)
    return [dataclasses.replace(one, runs_dir=tmp_path / "runs") for one in runs]


def put_run(one, *, summary=SUMMARY, lines=LINES):
    """A run folder as train.py leaves it."""
    folder = one.folder
    folder.checkpoints.mkdir(parents=True)
    folder.write_config(dataclasses.replace(one.config, run_dir="elsewhere"), inputs={}, after_step=0)
    folder.write_summary(summary)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tries(one):
    return [path.read_text() for path in sorted(one.folder.path.glob("*.try"))]


def options(*arguments):
    parser = argparse.ArgumentParser()
    objectives.add_options(parser)
    return parser.parse_args(["--config", str(TINY), *arguments])


def a_run(name, seed, **changes):
    """A run as the JSON file holds it."""
    return {
        "objective": name, "seed": seed, "error": "", "reused": False, "pass_at_1_before": (0.2, 0.22)[seed],
        "pass_at_1_after": 0.5, "steps": 2, "seconds": 60.0 + 20 * seed, "held_out_problems": 64,
        "samples_per_problem": 16, "sandbox": "local", "solved_share": [0.2, 0.3], "sessions": [{"commit": "abc"}],
        "updates": {
            "update/clip_low_share": {"mean": 0.01, "last": 0.5},
            "update/clip_high_share": {"mean": 0.02, "last": 0.5},
            "update/entropy": {"mean": 9.0, "last": 0.25},
        },
    } | changes  # fmt: skip


def a_failure(name, seed):
    missing = dict.fromkeys(("pass_at_1_before", "pass_at_1_after", "seconds"))
    return a_run(name, seed, error="out of luck", updates={}, solved_share=[], **missing)


def content(**changes):
    """A small result: two objectives, two seeds."""
    after = {"grpo": (0.5, 0.6), "gspo_plus": (0.4, 0.4)}
    runs = [a_run(name, seed, pass_at_1_after=after[name][seed]) for name in after for seed in (0, 1)]
    settings = {
        "command": "python scripts/bench.py objectives --seeds 0,1",
        "config": "configs/tiny.py",
        "objectives": ["grpo", "gspo_plus"],
        "seeds": [0, 1],
        "num_steps": 2,
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
    result = objectives.read_result(one, reused=True)
    assert (result["pass_at_1_before"], result["pass_at_1_after"], result["seconds"]) == (0.25, 0.5, 61.5)
    assert result["solved_share"] == [0.123, None]
    assert result["updates"] == {
        "update/clip_low_share": {"mean": 0.02, "last": 0.03},
        "update/entropy": {"mean": 0.375, "last": 0.25},
    }


def test_a_run_that_is_not_there_is_trained_by_the_command_of_the_readme(tmp_path, train_script):
    (one,) = planned(tmp_path, names=("gspo",))
    train_script("")
    result = objectives.train(one, commit="abc")
    assert (result["pass_at_1_after"], result["error"], result["reused"]) == (0.5, "", False)
    folder = tmp_path / "runs" / "gspo-seed-0"
    assert tries(one) == [f"--config {TINY} --run-dir {folder} --loss.name gspo --seed 0 --num-steps 2"]
    trained = cli.load(cli.make_parser("", default_config=""), tries(one)[0].split())[0]
    assert dataclasses.replace(trained, run_dir="") == one.config
    assert result["sessions"] == [{"commit": "abc"}]


def test_a_run_that_fails_has_its_last_lines_as_the_reason(tmp_path, train_script):
    (one,) = planned(tmp_path)
    train_script("print('first'); sys.exit('error: no luck today')")
    result = objectives.train(one, commit="abc")
    assert result["error"] == "exit code 1: first | error: no luck today"
    assert objectives.line(result) == "dapo-seed-0: failed: exit code 1: first | error: no luck today"


def test_an_unfinished_run_is_resumed_and_both_sessions_are_told(tmp_path, train_script):
    (one,) = planned(tmp_path)
    train_script("sys.exit(1)")
    objectives.train(one, commit="abc")
    train_script("")
    result = objectives.train(one, commit="def")
    assert tries(one)[1] == f"--resume {one.folder.path}"
    assert result["error"] == "" and result["sessions"] == [{"commit": "abc"}, {"commit": "def"}]


def test_a_run_that_stopped_in_good_order_before_its_end_is_no_result(tmp_path, train_script):
    (one,) = planned(tmp_path)
    train_script("finished = False")
    assert objectives.train(one, commit="abc")["error"].startswith("exit code 0")


def test_a_run_without_a_checkpoint_starts_again(tmp_path, train_script):
    (one,) = planned(tmp_path)
    put_run(one, summary={"finished": False})
    (one.folder.path / "left over").touch()
    train_script("")
    result = objectives.train(one, commit="abc")
    assert tries(one)[0].startswith("--config") and not result["error"]
    assert not (one.folder.path / "left over").exists()  # train.py refuses a folder that holds something


def test_a_run_with_another_config_is_not_taken_for_this_one(tmp_path):
    (one,) = planned(tmp_path)
    put_run(one)
    (other,) = planned(tmp_path, num_steps=3)
    with pytest.raises(UserError, match=r"num_steps 2, not 3.*--runs-dir"):
        objectives.is_finished(other)


def test_an_interrupted_bench_has_its_run_write_a_checkpoint_and_waits_for_it(tmp_path, train_script):
    (one,) = planned(tmp_path)
    train_script("""
signal.signal(signal.SIGINT, lambda *_: ((folder / 'asked').touch(), sys.exit(0)))
(folder / 'ready').touch()
time.sleep(60)""")

    def interrupt_when_ready():
        while not (one.folder.path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_ready, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        objectives.train(one, commit="abc")
    assert (one.folder.path / "asked").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--objectives", "dapo,ppo"], "--objectives got ppo; there are grpo"),
        (["--seeds", "0,-1,x"], "--seeds got -1 x; use whole numbers"),
        (["--seeds", ""], "--seeds is empty"),
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


def test_the_command_writes_json_picture_and_readme_and_takes_a_finished_run_as_it_is(tmp_path, train_script, capsys):
    train_script("")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- objectives: begin (x) -->\n<!-- objectives: end -->\n")
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    asked = ["--objectives", "dapo,gspo", "--seeds", "0", "--num-steps", "2", "--runs-dir", str(tmp_path / "runs")]
    assert objectives.run(options(*asked)) == 0
    train_script("sys.exit('it was trained again')")
    assert objectives.run(options(*asked, "--out", str(out), "--plot", str(plot), "--readme", str(readme))) == 0
    assert "finished earlier (2 of 2 runs)" in capsys.readouterr().err
    kept = json.loads(out.read_text())
    assert [(one["objective"], one["pass_at_1_after"], one["reused"]) for one in kept["runs"]] == [
        ("dapo", 0.5, True), ("gspo", 0.5, True)
    ]  # fmt: skip
    assert str(tmp_path) not in out.read_text()
    wanted = "--config configs/tiny.py --objectives dapo,gspo --seeds 0 --num-steps 2"
    assert kept["settings"]["command"].endswith(wanted)
    text = readme.read_text()
    assert replace_block(text, "objectives", objectives.markdown(kept)) == text
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_where_a_run_failed_the_others_go_on_the_command_ends_with_1_and_leaves_the_readme(
    tmp_path, train_script, capsys
):
    train_script("if 'dapo' in folder.name: sys.exit('error: no luck today')")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- objectives: begin (x) -->\n<!-- objectives: end -->\n")
    asked = ["--objectives", "dapo,gspo", "--seeds", "0", "--num-steps", "2", "--runs-dir", str(tmp_path / "runs")]
    assert objectives.run(options(*asked, "--plot", str(tmp_path / "p.png"), "--readme", str(readme))) == 1
    told = capsys.readouterr()
    assert "failed: dapo, seed 0: exit code 1: error: no luck today" in told.out
    assert "gspo-seed-0: held-out pass@1 25.0% before, 50.0% after" in told.err
    assert readme.read_text().count("\n") == 2


def test_the_table_has_a_row_an_objective_with_mean_and_deviation_over_seeds():
    heads, before, grpo, gspo_plus = objectives.table(content())
    assert dict(zip(heads, before, strict=True))["mean"] == "21.0 ± 1.4 %"
    shown = dict(zip(heads, grpo, strict=True))
    assert (shown["seed 0"], shown["seed 1"], shown["mean"]) == ("50.0 %", "60.0 %", "55.0 ± 7.1 %")
    assert (shown["clipped low / high"], shown["entropy"], shown["s a run"]) == ("1.00 % / 2.00 %", "0.250", "70")
    assert dict(zip(heads, gspo_plus, strict=True))["mean"] == "40.0 ± 0.0 %"


def test_a_failed_run_is_a_cell_and_counts_in_no_mean():
    runs = content()["runs"]
    runs[1] = a_failure("grpo", 1)
    heads, _, grpo, _ = objectives.table(content(runs=runs))
    shown = dict(zip(heads, grpo, strict=True))
    assert (shown["seed 0"], shown["seed 1"], shown["mean"]) == ("50.0 %", "failed", "50.0 %")


def test_the_picture_is_drawn_also_where_every_run_failed(tmp_path):
    objectives.plot(tmp_path / "failed.png", content(runs=[a_failure("grpo", 0)]))
    assert (tmp_path / "failed.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_on_the_page_of_the_benches_is_the_kept_measurement():
    text = (ROOT / "nouscoder_jax/bench/README.md").read_text(encoding="utf-8")
    assert replace_block(text, "objectives", objectives.markdown(json.loads(KEPT.read_text()))) == text
