"""What a page shows is what the folders hold, also where they are torn, begun or strange."""

import gzip
import json

import pytest
from run_folders import HOSTILE, PROBLEM, accepted, make_run, metrics_of, rollout, write_step

from nouscoder_jax.config import UserError
from nouscoder_jax.metrics import names
from nouscoder_jax.report.charts import CHARTS, MIXED
from nouscoder_jax.report.contents import TEST_CHARS, Contents
from nouscoder_jax.report.pack import cut, split_thinking
from nouscoder_jax.report.read import open_runs


def contents_of(*folders, text_chars=0):
    contents = Contents(open_runs([str(folder) for folder in folders]), text_chars=text_chars)
    contents.update()
    return contents


def unpacked(contents):
    """Every rollout as {column: value} with its texts."""
    found, known = [], {}
    for data in contents.pack.blocks:
        block = json.loads(gzip.decompress(data))
        for column, new in block["names"].items():
            known.setdefault(column, []).extend(new)
        for values in zip(*block["columns"].values(), strict=True):
            row = dict(zip(block["columns"], values, strict=True))
            row |= {column: known[column][row[column]] for column in known}
            chunk = json.loads(gzip.decompress(contents.pack.chunk(row["chunk"])))
            texts = chunk["rows"][row["place"]]
            test = None if texts["test"] is None else chunk["tests"][texts["test"]]
            found.append(row | texts | {"prompt": chunk["prompts"][texts["prompt"]], "test": test})
    return found


def chart(contents, title):
    (found,) = (one for one in contents.overview()["charts"] if one["title"] == title)
    return found


def test_a_rollout_comes_back_with_its_facts_its_parts_and_its_first_failing_test(tmp_path):
    (row,) = unpacked(contents_of(make_run(tmp_path / "run", {3: [rollout(3, group=7, sample=2)]})))
    assert (row["run"], row["step"], row["group"], row["sample"], row["problem"]) == (0, 3, 7, 2, "sum/1")
    assert (row["outcome"], row["fate"], row["reward"], row["passed"], row["total"]) == (
        *("wrong_answer", "trained", -1.0, 1, 2),
    )
    assert row["thinking"] == "two numbers" and row["answer"] == "```python\nprint(5)\n```"
    assert row["program"] == "print(5)\n" and row["got"] == "5\n"
    assert row["test"] == {"number": "2", "input": "2 2\n", "expected": "4\n"}


def test_hostile_texts_come_back_as_they_are(tmp_path):
    line = rollout(1, text=HOSTILE, program=HOSTILE, prompt=HOSTILE, problem_id=HOSTILE)
    (row,) = unpacked(contents_of(make_run(tmp_path / "run", {1: [line]})))
    assert {row["answer"], row["program"], row["prompt"], row["problem"]} == {HOSTILE}


def test_a_verdict_without_the_number_of_its_test_has_it_in_its_detail(tmp_path):
    line = rollout(1)
    for new in ("failed_test", "got"):
        del line["verdict"][new]
    (row,) = unpacked(contents_of(make_run(tmp_path / "run", {1: [line]})))
    assert row["test"]["input"] == "2 2\n" and row["got"] == ""


def test_a_test_is_not_shown_from_another_file_than_the_runs(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]})
    other = PROBLEM | {"tests": [{"input": "9\n", "output": "9\n"}] * 2}
    (tmp_path / "run-problems.jsonl").write_text(json.dumps(other) + "\n")
    (row,) = unpacked(contents_of(folder))
    assert row["test"] == {"number": "2"}
    (row,) = unpacked(contents_of(make_run(tmp_path / "gone", {1: [rollout(1)]}, problems=False)))
    assert row["test"] == {"number": "2"}


def test_a_long_test_and_a_long_text_are_cut_in_the_middle_and_say_so(tmp_path):
    assert cut("abcdefghi", 6) == "ab\n\n[... 3 characters left out ...]\n\nfghi"
    assert cut("abcdefghi", 9) == cut("abcdefghi", 0) == "abcdefghi"
    (row,) = unpacked(contents_of(make_run(tmp_path / "run", {1: [rollout(1, text="x" * 5000)]}), text_chars=300))
    assert len(row["answer"]) < 400 and "4,700 characters left out" in row["answer"]
    assert TEST_CHARS >= 1000


def test_thinking_is_what_stands_before_its_last_end():
    assert split_thinking("", "<think>a</think>b</think>\nc") == ("a</think>b", "c")
    assert split_thinking("user\n<think>\n", "never ends") == ("never ends", "")
    assert split_thinking("", "<think>never ends") == ("never ends", "")
    assert split_thinking("", "a <think> in words") == ("", "a <think> in words")


def test_rollouts_are_counted_by_what_became_of_them_as_the_run_counts_them(tmp_path):
    lines = [
        accepted(1, num_tokens=10),
        rollout(1, num_tokens=20),
        rollout(1, trained=False, drop_reason="equal", num_tokens=40),
        rollout(1, trained=False, num_tokens=80),  # of a used group: it was cut
        rollout(1, trained=False, verdict=None, reward=None, num_tokens=160),
    ]
    counts = {"rollouts/drawn": 8.0, "rollouts/trained": 2.0, "rollouts/filtered/equal": 1.0, "rollouts/in_flight": 3.0}
    counts |= {"rollouts/filtered/overlong": 1.0, "rollouts/quarantined": 1.0, "completion_tokens/trained": 15.0}
    folder = make_run(tmp_path / "run", {1: lines}, {0: [rollout(0)]}, [metrics_of(1, **counts)])
    (run,) = contents_of(folder).overview()["runs"]
    table = {one["kind"]: (one["run"], one["stored"], one["stored_mean"]) for one in run["fates"]}
    assert table == {
        "drawn": (8.0, None, None),
        "trained": (2.0, 2, 15.0),
        "filtered/equal": (1.0, 1, 40.0),
        "filtered/overlong": (1.0, 1, 80.0),
        "quarantined": (1.0, 1, 160.0),
        "in flight": (3.0, None, None),
    }


def test_every_curve_has_a_meaning_and_only_those_with_points_are_there(tmp_path):
    assert {metric for one in CHARTS for metric in one.series.values()} - {MIXED} <= names.METRICS.keys()
    folder = make_run(tmp_path / "run", metrics=[metrics_of(1), metrics_of(2, **{"update/entropy": float("nan")})])
    contents = contents_of(folder)
    shown = [one["title"] for one in contents.overview()["charts"]]
    assert shown == ["Reward", "Groups: solved, mixed, unsolved", "Outcomes", "Entropy"]
    (entropy,) = chart(contents, "Entropy")["series"]
    assert entropy["x"] == [1] and chart(contents, "Entropy")["note"].startswith("Mean entropy of the policy")
    mixed = chart(contents, "Groups: solved, mixed, unsolved")["series"][1]
    assert mixed["y"] == [16, 16]


def test_held_out_pass_at_1_says_both_sample_counts_where_they_differ(tmp_path):
    held_out = {0: [rollout(0)] * 4, 1: [rollout(1)] * 2, 2: [rollout(2)] * 4}
    metrics = [metrics_of(step, **{"held_out/pass_at_1": 0.5}) for step in held_out]
    one = make_run(tmp_path / "a", held_out=held_out, metrics=metrics)
    assert "4 samples a problem at the ends, 2 between." in chart(contents_of(one), "Held-out pass@1")["note"]
    other = make_run(tmp_path / "b", held_out={0: [rollout(0)] * 3}, metrics=metrics)
    assert "; b: 3 samples a problem." in chart(contents_of(one, other), "Held-out pass@1")["note"]


def test_torn_lines_are_left_out_and_counted(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]}, metrics=[metrics_of(1)])
    for path in (folder / "metrics.jsonl", folder / "rollouts/step-000001.jsonl"):
        with path.open("a") as file:
            file.write('{"step": 2, "text": "cut o')
    contents = contents_of(folder)
    (run,) = contents.overview()["runs"]
    assert (len(unpacked(contents)), run["unreadable"]) == (1, 1)
    assert run["state"] == "step 1 of 8; it has not ended"


def test_a_run_without_a_step_has_a_page(tmp_path):
    contents = contents_of(make_run(tmp_path / "run"))
    overview = contents.overview()
    assert (overview["charts"], overview["runs"][0]["state"], unpacked(contents)) == ([], "no step yet", [])


def test_new_steps_are_added_and_a_step_done_again_is_read_anew(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]})
    contents = contents_of(folder)
    write_step(folder, 2, [accepted(2)])
    contents.update()
    assert [row["step"] for row in unpacked(contents)] == [1, 2] and contents.generation == 0
    write_step(folder, 2, [rollout(2), accepted(2), accepted(2)])
    contents.update()
    assert [row["outcome"] for row in unpacked(contents)].count("accepted") == 2 and contents.generation == 1


def test_a_folder_that_goes_takes_nothing_from_what_was_read(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]})
    contents = contents_of(folder)
    folder.rename(tmp_path / "elsewhere")
    contents.update()
    assert len(unpacked(contents)) == 1 and "gone" in contents.overview()["runs"][0]["state"]


def test_a_run_that_was_resumed_has_not_ended_as_its_old_summary_says(tmp_path):
    folder = make_run(tmp_path / "run", metrics=[metrics_of(1)])
    (folder / "summary.json").write_text(json.dumps({"finished": True, "steps": 1}))
    assert contents_of(folder).overview()["runs"][0]["state"] == "ended after step 1"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_of(2)) + "\n")
    assert contents_of(folder).overview()["runs"][0]["state"] == "step 2 of 8; it has not ended"


@pytest.mark.parametrize(
    ("made", "given", "says"),
    [
        ("nothing", ["none"], "is not there; give the folder that a run has written"),
        ("file", ["none"], "is a file; give the folder"),
        ("folder", ["none"], "holds no run (config.json: No such file or directory)"),
        ("config", ["none"], "is no JSON"),
    ],
)
def test_what_is_no_run_is_told(tmp_path, monkeypatch, made, given, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "none"
    if made == "file":
        path.touch()
    elif made != "nothing":
        path.mkdir()
    if made == "config":
        (path / "config.json").write_text("{")
    with pytest.raises(UserError) as error:
        open_runs(given)
    assert says in str(error.value)


def test_two_runs_of_one_name_are_told_and_can_be_named_apart(tmp_path):
    one, other = make_run(tmp_path / "a/run"), make_run(tmp_path / "b/run")
    with pytest.raises(UserError, match=r"two runs are named 'run'.*NAME="):
        open_runs([str(one), str(other)])
    assert [run.name for run in open_runs([str(one), f"second={other}"])] == ["run", "second"]
