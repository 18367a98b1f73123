"""What a folder keeps of an evaluation: whole lines only, and only for the same evaluation."""

import asyncio
import dataclasses
import json

import pytest
from test_evaluate import TWO, ScriptedEngine, ScriptedJudge

from nouscoder_jax import evaluation
from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import stored
from nouscoder_jax.evaluation.report import Report
from nouscoder_jax.evaluation.score import score
from nouscoder_jax.rollout.extract import Extracted
from nouscoder_jax.rollout.sampler import sample_seed
from nouscoder_jax.types import EngineError, Prompt, Sampling

SETTINGS = {"model": "m", "seed": 0}
PROMPTS = {problem.problem_id: Prompt(problem_id=problem.problem_id, token_ids=(1,)) for problem in TWO}
SEEDS = [sample_seed(0, group_id=group, sample_index=index) for group in (-1, -2) for index in range(4)]


class SeededEngine(ScriptedEngine):
    """Answers each request with the place of its seed, whenever it comes."""

    async def generate(self, prompt, sampling):
        completion = await super().generate(prompt, sampling)
        place = SEEDS.index(sampling.seed)
        return dataclasses.replace(completion, token_ids=(place,) * (place + 1), finish_reason="stop")


def run(folder, letters="awawaaww", published=None, **engine):
    asked = SeededEngine(**engine)
    with stored.open_log(folder, SETTINGS) as log:
        result = asyncio.run(
            evaluation.evaluate(
                TWO,
                PROMPTS,
                engine=asked,
                judge=ScriptedJudge(letters),
                sampling=Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=8, seed=0),
                samples_per_problem=4,
                decode=lambda ids: str(ids[0]),
                extract=lambda prompt, completion, text: Extracted(text, False),
                on_progress=lambda done, total: None,
                kept=log.kept,
                on_judged=log.add,
                published=published,
            )
        )
    return result, len(asked.requests)


def numbers(result):
    return result.to_dict(), result.measured


@pytest.mark.parametrize("cut", [0, 1, 40, 300, 500, -1])
def test_a_cut_file_goes_on_to_the_same_result(tmp_path, cut):
    whole, _ = run(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / stored.SETTINGS).write_text(json.dumps(SETTINGS))
    text = (tmp_path / "whole" / stored.SAMPLES).read_bytes()[:cut]
    (tmp_path / "cut" / stored.SAMPLES).write_bytes(text)
    result, drawn = run(tmp_path / "cut")
    assert numbers(result) == numbers(whole) and drawn == 8 - text.count(b"\n")
    lines = (tmp_path / "cut" / stored.SAMPLES).read_text().splitlines()
    assert len(lines) == 8 and {json.loads(line)["sample_index"] for line in lines} == {0, 1, 2, 3}


def test_what_was_judged_before_an_engine_failed_is_kept(tmp_path):
    with pytest.raises(EngineError):
        run(tmp_path / "a", fail_at=5)
    before = (tmp_path / "a" / stored.SAMPLES).read_text().count("\n")
    result, drawn = run(tmp_path / "a")
    assert drawn == 8 - before and numbers(result) == numbers(run(None)[0])


def test_what_the_judge_failed_at_is_drawn_again(tmp_path):
    failed, _ = run(tmp_path / "a", letters="a!awaaw!")
    assert failed.num_judge_failures == 2
    result, drawn = run(tmp_path / "a")
    assert drawn == 2 and numbers(result) == numbers(run(None)[0])


def test_both_graders_are_kept_and_a_failure_of_the_second_is_drawn_again(tmp_path):
    """The second grader refuses the program 0, fails once at 3, and accepts the others."""
    first, drawn = run(tmp_path / "a", published=ScriptedJudge("waa!aaaa").judge)
    assert drawn == 8 and first.measured[3].published_outcome == ""
    result, drawn = run(tmp_path / "a", published=ScriptedJudge("waaaaaaa").judge)
    assert drawn == 1 and numbers(result) == numbers(run(None, published=ScriptedJudge("waaaaaaa").judge)[0])
    report = Report(
        model="m", problem_file="p", released="", max_tokens=8, result=result, score=score(result.measured, TWO)
    )
    values = report.to_dict()["livecodebench"]
    assert values["pass_at_1"]["mean"] == 7 / 8 and result.pass_at_1 == 4 / 8
    assert [one["problem_id"] + str(one["sample_index"]) for one in values["differ"]] == ["x0", "x1", "x3", "y2", "y3"]
    assert values["differ"][0]["strict"] == "accepted" and values["differ"][0]["livecodebench"] == "wrong_answer"
    assert "  x sample 0: strict accepted; livecodebench wrong_answer" in report.lines()


def test_nothing_is_drawn_where_all_is_there(tmp_path):
    run(tmp_path / "a")
    assert run(tmp_path / "a")[1] == 0


@pytest.mark.parametrize("changed", [{"model": "n"}, {"seed": 1}, {"new": 1}])
def test_other_settings_are_refused_by_name(tmp_path, changed):
    run(tmp_path / "a")
    (name,) = changed
    with (
        pytest.raises(UserError, match=rf"--out got .*other settings \({name} was "),
        stored.open_log(tmp_path / "a", SETTINGS | changed),
    ):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    wanted = r"holds thesis\.tex and no settings\.json"
    with pytest.raises(UserError, match=wanted), stored.open_log(tmp_path, SETTINGS):
        pass


def test_a_line_that_is_no_sample_is_named(tmp_path):
    run(tmp_path / "a")
    path = tmp_path / "a" / stored.SAMPLES
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"samples.jsonl:1 is no sample"):
        run(tmp_path / "a")


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"), stored.open_log(tmp_path / "file", SETTINGS):
        pass
