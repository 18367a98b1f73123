"""What a report writes reads back as the same samples; bad files are refused; the table has the run and the others."""

import json
import math

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import report, score
from nouscoder_jax.evaluation.evaluate import summarize
from nouscoder_jax.types import Comparison, Completion, Outcome, Problem, Prompt, Rollout, Verdict


def problem(problem_id, difficulty):
    return Problem(
        problem_id=problem_id,
        statement="",
        tests=(),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=None,
        memory_limit_mib=None,
        comparison=Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program=""),
        source="test",
        family="",
        difficulty=difficulty,
    )


PROBLEMS = [problem("p", "easy"), problem("q", "hard")]


def judged(problem_id, outcome, num_tokens, cut=False):
    completion = Completion(
        token_ids=(1,) * num_tokens,
        behavior_logprobs=(0.0,) * num_tokens,
        finish_reason="length" if cut else "stop",
        policy_version=0,
    )
    prompt = Prompt(problem_id=problem_id, token_ids=(1,))
    rollout = Rollout(group_id=-1, sample_index=0, prompt=prompt, completion=completion, text="", program="")
    if outcome is None:
        return rollout, None
    return rollout, Verdict(outcome=outcome, tests_passed=0, tests_total=1, cpu_s=0.0, peak_memory_mib=0.0, detail="")


RESULTS = [
    judged("p", Outcome.ACCEPTED, 3),
    judged("p", Outcome.WRONG_ANSWER, 9, cut=True),
    judged("q", Outcome.ACCEPTED, 5),
    judged("q", None, 4),
]


def made(results=RESULTS, **fields):
    result = summarize(PROBLEMS, results)
    numbers = score.score(score.samples_of(result.samples), PROBLEMS, contexts=(4, 9))
    about = {"model": "m", "problem_file": "f.jsonl", "released": "2024-08-01..2025-05-01", "max_tokens": 9}
    return report.Report(**about, result=result, score=numbers, **fields)


def test_samples_read_back_as_they_were_and_failures_are_none(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(made().to_dict(), allow_nan=False))
    assert report.read_samples(path) == score.samples_of(RESULTS)
    written = json.loads(path.read_text())
    assert [len(problem["samples"]) for problem in written["problems"]] == [2, 1]
    assert written["problems"][0]["samples"][1] == {
        "passed": False,
        "tokens": 9,
        "truncated": True,
        "outcome": "wrong_answer",
    }
    assert written["score"]["by_context"]["4"]["mean"] == 0.25 and written["pass_at_1"] == 0.75


def test_nothing_judged_is_null_and_not_nan():
    values = made([judged("p", None, 1)]).to_dict()
    assert values["score"]["pass_at_1"]["mean"] is None
    json.dumps(values, allow_nan=False)
    assert math.isnan(made([judged("p", None, 1)]).score.pass_at_1.mean)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"problems": [{"problem_id": "p"}]}', '{"problems": []}'])
def test_a_file_without_samples_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"--compare got .*a\.json"):
        report.read_samples(path)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--compare got .*b\.json"):
        report.read_samples(tmp_path / "b.json")


def test_the_table_has_the_run_beside_the_published_numbers():
    text = made().markdown()
    assert "| m, this run | 2 of f.jsonl, 2024-08-01..2025-05-01 | 9 | 75.00 | 50.00 to 100.00 |" in text
    for share in ("60.79", "67.87", "66.26", "66.52", "about 63"):
        assert f"| {share} |" in text
    assert "another model, problem set and grader unless" in text
    assert "| easy | 1 | 50.00 | 50.00 to 50.00 |" in text and "| hard | 1 | 100.00 |" in text
    assert "| 4 | 2 | 25.00 | 0.00 to 50.00 |" in text and "month" not in text


def test_a_comparison_is_in_the_table_the_lines_and_the_json():
    paired = score.compare({"p": 0.5, "q": 1.0}, {"p": 0.5, "q": 0.0}, other="b.json")
    one = made(paired=paired, compared_with="b.json")
    told = "against b.json: +50.0 points (95 % interval +0.0 to +100.0, 2 problems, 1 better, 0 worse), p = 1 "
    assert told in one.markdown() and told in one.lines()[-1]
    assert one.to_dict()["paired"]["difference"]["mean"] == 0.5


@pytest.mark.parametrize("results", [RESULTS, RESULTS[3:]])
def test_the_picture_is_a_png_where_nothing_was_judged_too(tmp_path, results):
    path = tmp_path / "a.png"
    made(results).draw(path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
