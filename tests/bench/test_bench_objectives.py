"""`bench.py objectives`: every run is made once, none is lost, none is taken for another, and a failure is told."""

import argparse
import json
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.bench import objectives
from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.config import UserError
from nouscoder_jax.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.py"
KEPT = ROOT / "tests" / "baselines" / "objectives.json"

TRAIN = """
import json, sys, time
from pathlib import Path
from nouscoder_jax.run_folder import RunFolder

folder = RunFolder(path=Path(sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--run-dir") + 1]))
folder.checkpoints.mkdir(parents=True, exist_ok=True)
(folder.path / f"{time.time_ns()}.try").write_text(" ".join(sys.argv[1:]))
finished = True
HOOK
folder.metrics.write_text("".join(json.dumps(line) + "\\n" for line in LINES))
folder.summary.write_text(json.dumps(SUMMARY | {"finished": finished}))
"""
LINES = [
    {"step": 0, "held_out/pass_at_1": 0.25},
    {"step": 1, "update/entropy": 0.5, "update/clip_low_share": 0.01},
    {"step": 2, "update/entropy": 0.25, "update/clip_low_share": 0.03},
]
SUMMARY = {
    "pass_at_1_before": 0.25, "pass_at_1_after": 0.5, "steps": 2, "seconds": 61.5, "held_out_problems": 64,
    "samples_per_problem": 16,
}  # fmt: skip


@pytest.fixture
def train_script(tmp_path, monkeypatch):
    """Writes a script that takes scripts/train.py's place, with lines of its own before the run ends."""

    def write(hook: str) -> None:
        made = TRAIN.replace("HOOK", hook).replace("LINES", repr(LINES)).replace("SUMMARY", repr(SUMMARY))
        (tmp_path / "train.py").write_text(made)
        monkeypatch.setattr(objectives, "_TRAIN", tmp_path / "train.py")

    return write


def options(tmp_path, *arguments):
    parser = argparse.ArgumentParser()
    objectives.add_options(parser)
    (tmp_path / "runs").mkdir(exist_ok=True)
    return parser.parse_args(["--config", str(TINY), "--runs-dir", str(tmp_path / "runs"), *arguments])


def train(tmp_path, objective="dapo"):
    return objectives.train(objective, 0, ["--loss.name", objective, "--seed", "0"], options(tmp_path))


def tries(tmp_path, objective="dapo"):
    return [path.read_text() for path in sorted((tmp_path / "runs" / f"{objective}-seed-0").glob("*.try"))]


def content():
    """A small result: two objectives, two seeds, one run that failed."""
    after = {"grpo": (0.5, 0.6), "gspo_plus": (0.4, 0.4)}
    updates = {
        "update/clip_low_share": {"mean": 0.01, "last": 0.5},
        "update/clip_high_share": {"mean": 0.02, "last": 0.5},
        "update/entropy": {"mean": 9.0, "last": 0.25},
    }
    runs = [
        SUMMARY | {
            "objective": name, "seed": seed, "error": "", "pass_at_1_before": (0.2, 0.22)[seed],
            "pass_at_1_after": after[name][seed], "seconds": 60.0 + 20 * seed, "updates": updates,
        }
        for name in after for seed in (0, 1)
    ]  # fmt: skip
    runs[3] |= dict.fromkeys(SUMMARY) | {"error": "out of luck", "updates": {}}
    return {"settings": {"objectives": list(after), "seeds": [0, 1]}, "runs": runs}


def test_all_objectives_of_the_config_are_trained_unless_told_otherwise(tmp_path):
    assert options(tmp_path).objectives == ["grpo", "dr_grpo", "dapo", "gspo", "gspo_plus", "cispo"]


def test_a_run_that_is_not_there_is_trained_and_read_and_then_taken_as_it_is(tmp_path, train_script):
    train_script("")
    result = train(tmp_path, "gspo")
    assert (result["pass_at_1_after"], result["error"], result["seconds"]) == (0.5, "", 61.5)
    assert result["updates"] == {
        "update/clip_low_share": {"mean": 0.02, "last": 0.03},
        "update/entropy": {"mean": 0.375, "last": 0.25},
    }
    folder = tmp_path / "runs" / "gspo-seed-0"
    assert tries(tmp_path, "gspo") == [f"--config {TINY} --run-dir {folder} --loss.name gspo --seed 0"]
    train_script("sys.exit('it was trained again')")
    assert train(tmp_path, "gspo") == result


def test_a_run_that_fails_has_its_last_lines_as_the_reason_and_goes_on_from_its_checkpoint(tmp_path, train_script):
    train_script("print('first'); (folder.checkpoints / '1').mkdir(); sys.exit('error: no luck today')")
    assert train(tmp_path)["error"] in ("exit code 1: first | error: no luck today",
                                        "exit code 1: error: no luck today | first")  # fmt: skip
    train_script("")
    assert train(tmp_path)["error"] == ""
    assert tries(tmp_path)[1] == f"--resume {tmp_path / 'runs' / 'dapo-seed-0'}"


def test_a_run_that_stopped_in_good_order_before_its_end_is_no_result(tmp_path, train_script):
    train_script("finished = False")
    assert train(tmp_path)["error"].startswith("exit code 0")


def test_a_run_with_another_config_is_not_taken_for_this_one(tmp_path, train_script):
    train_script("")
    train(tmp_path)
    config = cli.apply_overrides(cli.load_config_file(TINY), ["--loss.name", "dapo", "--seed", "1"])
    RunFolder(path=tmp_path / "runs" / "dapo-seed-0").write_config(config, inputs={}, after_step=0)
    with pytest.raises(UserError, match=r"with another seed; give another --runs-dir"):
        train(tmp_path)


def test_the_command_writes_json_and_readme_and_a_run_that_fails_leaves_the_readme(tmp_path, train_script, capsys):
    train_script("")
    (tmp_path / "README.md").write_text("<!-- objectives: begin (x) -->\n<!-- objectives: end -->\n")
    asked = ["--objectives", "dapo,gspo", "--seeds", "0", "--num-steps", "2", "--out", str(tmp_path / "out.json")]
    asked += ["--readme", str(tmp_path / "README.md")]
    assert objectives.run(options(tmp_path, *asked)) == 0
    kept, text = json.loads((tmp_path / "out.json").read_text()), (tmp_path / "README.md").read_text()
    assert [(one["objective"], one["pass_at_1_after"]) for one in kept["runs"]] == [("dapo", 0.5), ("gspo", 0.5)]
    assert str(tmp_path) not in (tmp_path / "out.json").read_text()
    assert kept["settings"]["command"].endswith(
        "--config configs/tiny.py --objectives dapo,gspo --seeds 0 --num-steps 2"
    )
    assert "| `gspo` | 50.0 % |" in text and replace_block(text, "objectives", objectives.markdown(kept)) == text
    train_script("sys.exit('error: no luck today')")
    assert objectives.run(options(tmp_path, *asked, "--objectives", "cispo")) == 1
    assert "failed: cispo-seed-0: exit code 1: error: no luck today" in capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == text


def test_the_table_has_a_row_an_objective_with_mean_and_deviation_over_seeds():
    heads, *rows = objectives.table(content())
    before, grpo, gspo_plus = (dict(zip(heads, row, strict=True)) for row in rows)
    assert (before["seed 1"], before["mean"]) == ("22.0 %", "21.0 ± 1.4 %")
    assert (grpo["seed 0"], grpo["seed 1"], grpo["mean"]) == ("50.0 %", "60.0 %", "55.0 ± 7.1 %")
    assert (grpo["clipped low / high"], grpo["entropy"], grpo["s a run"]) == ("1.00 % / 2.00 %", "0.250", "70")
    assert (gspo_plus["seed 1"], gspo_plus["mean"]) == ("failed", "40.0 %")


def test_the_table_on_the_page_of_the_benches_is_the_kept_measurement():
    text = (ROOT / "nouscoder_jax/bench/README.md").read_text(encoding="utf-8")
    assert replace_block(text, "objectives", objectives.markdown(json.loads(KEPT.read_text()))) == text
