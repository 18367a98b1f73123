"""Rejudge: each verdict that is another one now is told, with what it would have done; everything else is not."""

import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import make_config

from nouscoder_jax.config import UserError
from nouscoder_jax.data.problems import write_problems
from nouscoder_jax.experience.filters import assign_advantages, classify_group
from nouscoder_jax.loop import open_folder
from nouscoder_jax.loop.rejudge import Rejudge, parse_steps, rejudge
from nouscoder_jax.loop.stored import rollout_line
from nouscoder_jax.types import Comparison, Completion, JudgeError, Outcome, Problem, Prompt, Rollout, TestCase, Verdict

ROOT = Path(__file__).resolve().parents[2]
RIGHT, WRONG, NONE = "print(int(input()) * 2)", "print(7)", None
COMPARISON = Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
PROBLEM = Problem(
    problem_id="double",
    statement="Read a number. Print twice the number.",
    tests=(TestCase(input="2\n", expected="4\n"), TestCase(input="5\n", expected="10\n")),
    fn_name=None,
    starter_code="",
    prelude="",
    time_limit_s=2.0,
    memory_limit_mib=256,
    comparison=COMPARISON,
    source="here",
    family="",
)
TRUE = {RIGHT: Outcome.ACCEPTED, WRONG: Outcome.WRONG_ANSWER, NONE: Outcome.NO_PROGRAM}


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(outcome=outcome, tests_passed=0, tests_total=2, cpu_s=0.0, peak_memory_mib=0.0, detail="then")


class Run:
    """A run folder whose rollouts are judged and credited as the loop does it; groups of four programs a step."""

    def __init__(self, path: Path, **experience):
        write_problems(path / "problems.jsonl", [PROBLEM], solutions=[])
        plain = {"advantage": "group_mean", "reward_accepted": 1.0, "reward_rejected": 0.0}
        self.config = make_config(
            run_dir=str(path / "run"),
            data={"problems": str(path / "problems.jsonl")},
            rollout={"group_size": 4},
            verifier={"backend": "local"},
            experience=plain | experience,
        )
        self.folder = open_folder.find_new(self.config)
        open_folder.begin(self.folder, self.config, after_step=0)
        self.path = self.folder.path

    def step(self, step: int, *groups, flipped=(), failed=(), aborted=()) -> None:
        """Writes a step; `flipped` names samples (group, index) whose verdict was the opposite then."""
        judged = []
        for number, programs in enumerate(groups):
            rollouts = [self.rollout(number, i, p, (number, i) in aborted) for i, p in enumerate(programs)]
            verdicts = [
                None
                if (number, i) in (*failed, *aborted)
                else verdict(opposite(TRUE[program]) if (number, i) in flipped else TRUE[program])
                for i, program in enumerate(programs)
            ]
            judged.append(classify_group(rollouts, verdicts, config=self.config.experience))
        used = [experiences for experiences, drop_reason in judged if drop_reason is None]
        advantaged = iter(assign_advantages(used, config=self.config.experience, group_size=4))
        lines = [
            rollout_line(step, experience, drop_reason)
            for experiences, drop_reason in judged
            for experience in (next(advantaged) if drop_reason is None else experiences)
        ]
        self.folder.write_rollouts(step, lines)

    @staticmethod
    def rollout(group_id: int, index: int, program: str | None, is_aborted: bool) -> Rollout:
        completion = Completion(
            token_ids=(1, 2),
            behavior_logprobs=(-1.0, -1.0),
            finish_reason="abort" if is_aborted else "stop",
            policy_version=0,
        )
        prompt = Prompt(problem_id="double", token_ids=(1,))
        return Rollout(
            group_id=group_id, sample_index=index, prompt=prompt, completion=completion, text="", program=program
        )

    def again(self, capsys, **options) -> tuple[int, str, list[dict]]:
        """Exit code, console and lines of the file."""
        out = self.path.parent / "changed.jsonl"
        options = {"problems": None, "steps": (0, None), "out": out, "stop_at_first_failure": True} | options
        code = rejudge(self.path, options.pop("settings", {}), **options)
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return code, capsys.readouterr().out, lines


def opposite(outcome: Outcome) -> Outcome:
    return Outcome.WRONG_ANSWER if outcome is Outcome.ACCEPTED else Outcome.ACCEPTED


def test_a_run_whose_verdicts_are_right_has_no_change(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, NONE, WRONG], [RIGHT] * 4)
    code, told, lines = run.again(capsys)
    assert (code, lines) == (0, [])
    assert "no verdict changed" in told and "8 rollouts, 3 different programs judged" in told


def test_a_flipped_verdict_is_told_with_its_effect_on_reward_and_advantages(tmp_path, capsys):
    """Rewards 1 1 0 0 stored, mean 1/2; 1 0 0 0 now, mean 1/4."""
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG])
    run.step(2, [RIGHT, WRONG, NONE, WRONG], flipped=[(0, 1)])
    code, told, lines = run.again(capsys)
    assert code == 1
    assert [(c["step"], c["group_id"], c["sample_index"], c["problem_id"]) for c in lines] == [(2, 0, 1, "double")]
    (change,) = lines
    assert (change["old_outcome"], change["new_outcome"]) == ("accepted", "wrong_answer")
    assert (change["old_reward"], change["new_reward"]) == (1.0, 0.0)
    assert (change["old_advantage"], change["new_advantage"]) == (0.5, -0.25)
    assert (change["old_drop_reason"], change["new_drop_reason"]) == (None, None)
    assert "accepted -> wrong_answer: 1" in told
    assert "1 rollouts with another reward, 4 with another advantage, 0 groups used or dropped otherwise" in told
    assert "mean reward -0.1250 over all, -0.2500 at most (step 2)" in told


def test_a_group_that_would_have_been_dropped_or_used_is_told(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT] * 4, [RIGHT] * 4, flipped=[(0, 3)])
    run.step(2, [RIGHT, WRONG, WRONG, WRONG], flipped=[(0, 0)])
    _, told, lines = run.again(capsys)
    assert [(c["step"], c["old_drop_reason"], c["new_drop_reason"]) for c in lines] == [
        (1, None, "equal"), (2, "equal", None)
    ]  # fmt: skip
    assert [(c["old_advantage"], c["new_advantage"]) for c in lines] == [(-0.75, 0.0), (0.0, 0.75)]
    assert "2 groups used or dropped otherwise" in told


def test_an_advantage_over_the_batch_changes_in_groups_whose_verdicts_did_not(tmp_path, capsys):
    """REINFORCE++: rewards 1 0 0 0 and 1 1 0 0 make a batch of mean 3/8; before, 1 1 0 0 twice, of mean 1/2."""
    run = Run(tmp_path, advantage="batch_mean_std", std_ddof=0)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG], [RIGHT, RIGHT, WRONG, WRONG], flipped=[(0, 1)])
    _, told, (change,) = run.again(capsys)
    assert change["old_advantage"] == pytest.approx(1.0, abs=1e-5)
    assert change["new_advantage"] == pytest.approx(-0.375 / np.sqrt(15 / 64), abs=1e-5)
    assert "1 rollouts with another reward, 8 with another advantage" in told


def test_a_dropped_group_takes_no_part_in_the_batch(tmp_path, capsys):
    """Rewards 1 0 0 0 make the batch, mean 1/4; the solved group before it is dropped."""
    run = Run(tmp_path, advantage="batch_mean_std", std_ddof=0)
    run.step(1, [RIGHT] * 4, [RIGHT, WRONG, WRONG, WRONG], flipped=[(1, 1)])
    _, _, (change,) = run.again(capsys)
    assert change["old_advantage"] == pytest.approx(1.0, abs=1e-5)
    assert change["new_advantage"] == pytest.approx(-0.25 / np.sqrt(3 / 16), abs=1e-5)


def test_changes_are_told_in_the_order_of_steps_groups_and_samples(tmp_path, capsys):
    run = Run(tmp_path)
    for step in (1, 2):
        run.step(step, [RIGHT, WRONG, WRONG, RIGHT], [RIGHT, WRONG, WRONG, WRONG], flipped=[(1, 0), (0, 3), (0, 1)])
    told = [(change["step"], change["group_id"], change["sample_index"]) for change in run.again(capsys)[2]]
    assert told == [(1, 0, 1), (1, 0, 3), (1, 1, 0), (2, 0, 1), (2, 0, 3), (2, 1, 0)]


def test_groups_of_a_step_make_one_batch(tmp_path, capsys):
    run = Run(tmp_path, advantage="batch_mean_std", std_ddof=0)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG], [RIGHT, RIGHT, WRONG, WRONG], flipped=[(0, 1)])
    _, told, (change,) = run.again(capsys)
    assert change["new_advantage"] == pytest.approx(-0.375 / np.sqrt(15 / 64), abs=1e-5)
    assert "8 rollouts" in told and "8 with another advantage" in told


def test_a_rollout_that_was_not_judged_then_is_told_as_such(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, RIGHT, WRONG, WRONG], failed=[(0, 0)])
    code, told, (change,) = run.again(capsys)
    assert code == 1 and "not judged -> accepted: 1" in told
    assert (change["old_outcome"], change["old_reward"], change["new_reward"]) == (None, None, 1.0)
    assert change["new_advantage"] == 0.5


def test_a_completion_that_the_engine_gave_up_is_not_judged(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, RIGHT, WRONG, WRONG], aborted=[(0, 0)])
    code, told, lines = run.again(capsys)
    assert (code, lines) == (0, []) and "1 not judged then either" in told


def test_lines_that_cannot_be_used_are_counted_and_their_groups_left_out(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG])
    run.step(2, [RIGHT, WRONG, WRONG, WRONG], [RIGHT, WRONG, WRONG, WRONG], [RIGHT] * 4, flipped=[(1, 1)])
    file = run.folder.rollouts_of(2)
    lines = file.read_text().splitlines()
    lines[0] = json.dumps({name: value for name, value in json.loads(lines[0]).items() if name != "program"})
    file.write_text("\n".join(lines)[:-30])
    code, told, changes = run.again(capsys)
    assert code == 1 and [change["group_id"] for change in changes] == [1]
    assert "1 lines left out: no field 'program'" in told and "1 lines left out: cut off" in told
    assert "6 left out: their group is not whole" in told and "8 rollouts" in told


def test_a_run_resumed_with_other_rewards_is_told(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG])
    other = dataclasses.replace(run.config.experience, reward_rejected=-1.0)
    run.folder.write_config(dataclasses.replace(run.config, experience=other), inputs={}, after_step=0)
    code, told, _ = run.again(capsys)
    assert code == 0 and "4 have another reward or advantage in the run folder than config.json gives" in told


class CountingJudge:
    """Fails on one program; counts."""

    def __init__(self, fails):
        self.fails, self.asked = fails, []

    async def judge(self, problem, program):
        self.asked.append(program)
        await asyncio.sleep(0)
        if program == self.fails:
            raise JudgeError("gone")
        return verdict(TRUE[program])


def run_with(judge, run: Run, steps):
    again = Rejudge(run.folder, run.config, {"double": PROBLEM, "other": PROBLEM}, judge)
    seen = []
    asyncio.run(again.run(steps, on_step=seen.append))
    return again.totals, seen


def test_equal_programs_of_a_problem_are_judged_once_over_all_steps(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.step(step, [RIGHT, WRONG, NONE, WRONG])
    judge = CountingJudge(fails="nothing")
    totals, seen = run_with(judge, run, [1, 2, 3])
    assert sorted(judge.asked, key=str) == sorted([RIGHT, WRONG, NONE], key=str)
    assert totals.num_rollouts == 12 and [effects.step for effects in seen] == [1, 2, 3]


def test_equal_programs_of_two_problems_are_judged_twice(tmp_path):
    run = Run(tmp_path)
    run.step(1, [RIGHT] * 4, [RIGHT] * 4)
    file = run.folder.rollouts_of(1)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:4] + [line.replace('"double"', '"other"') for line in lines[4:]]))
    judge = CountingJudge(fails="nothing")
    run_with(judge, run, [1])
    assert judge.asked == [RIGHT, RIGHT]


def test_the_judge_is_not_asked_about_a_completion_that_the_engine_gave_up(tmp_path):
    run = Run(tmp_path)
    run.step(1, [NONE, RIGHT, WRONG, WRONG], aborted=[(0, 0)])
    judge = CountingJudge(fails="nothing")
    totals, _ = run_with(judge, run, [1])
    assert judge.asked == [RIGHT, WRONG] and totals.num_aborted == 1


def test_what_cannot_be_judged_now_counts_as_it_was_and_is_no_success(tmp_path):
    run = Run(tmp_path)
    run.step(1, [RIGHT, RIGHT, WRONG, WRONG])
    totals, (effects,) = run_with(CountingJudge(fails=WRONG), run, [1])
    assert totals.num_failures == 2 and totals.exit_code == 1
    assert effects.changes == () and effects.num_rewards == 0


def test_steps_can_be_chosen(tmp_path, capsys):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.step(step, [RIGHT, WRONG, WRONG, WRONG], flipped=[(0, 0)])
    assert [change["step"] for change in run.again(capsys, steps=(2, 2))[2]] == [2]
    with pytest.raises(UserError, match="holds rollouts of steps 1 to 3, none of 7 to the newest"):
        run.again(capsys, steps=(7, None))


@pytest.mark.parametrize(
    ("text", "steps"), [("5", (5, 5)), ("3-8", (3, 8)), ("3-", (3, None)), ("-8", (0, 8)), ("0-", (0, None))]
)
def test_steps_are_written_as_a_number_or_a_range(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "-", "a", "8-3", "1-2-3", "1.5"])
def test_other_steps_are_refused(text):
    with pytest.raises(UserError, match="--steps is"):
        parse_steps(text)


def test_no_run_folder_no_rollouts_no_problems_and_a_strange_problem_are_told_in_one_line(tmp_path, capsys):
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"holds no run .*give --rejudge the folder"):
        rejudge(tmp_path, {}, problems=None, steps=(0, None), out=None, stop_at_first_failure=True)
    with pytest.raises(UserError, match="holds no rollouts"):
        run.again(capsys)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG])
    (tmp_path / "problems.jsonl").rename(tmp_path / "moved.jsonl")
    with pytest.raises(UserError, match=r"problems.jsonl is not here; .*--problems"):
        run.again(capsys)
    assert run.again(capsys, problems=str(tmp_path / "moved.jsonl"))[0] == 0
    write_problems(tmp_path / "o", [dataclasses.replace(PROBLEM, problem_id="x")], solutions=[])
    with pytest.raises(UserError, match="problem 'double', which the problem file does not have"):
        run.again(capsys, problems=str(tmp_path / "o"))
    run.folder.rollouts_of(1).write_text("{}\n")
    with pytest.raises(UserError, match=r"no rollouts .* can be used \(1 lines: no field 'verdict'\)"):
        run.again(capsys, problems=str(tmp_path / "moved.jsonl"))


def test_the_file_appears_only_when_everything_is_judged_and_is_refused_at_once(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG])
    with pytest.raises(UserError, match="choose another --out"):
        run.again(capsys, out=tmp_path / "none" / "x")
    run.folder.rollouts_of(1).write_text("{}\n")
    with pytest.raises(UserError):
        run.again(capsys, out=tmp_path / "x")
    assert not list(tmp_path.glob("x*"))


def test_settings_replace_those_of_the_run(tmp_path, capsys):
    run = Run(tmp_path)
    run.step(1, [RIGHT] * 4)
    with pytest.raises(UserError, match="num_workers is 0"):
        run.again(capsys, settings={"num_workers": 0, "backend": None})


def test_the_script_judges_a_run_again_without_jax(tmp_path):
    run = Run(tmp_path)
    run.step(1, [RIGHT, WRONG, WRONG, WRONG], flipped=[(0, 0)])
    probe = (
        "import sys, runpy; sys.argv = ['verify.py', '--rejudge', sys.argv[1], '--workers', '1']\n"
        "try: runpy.run_path('scripts/verify.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe, str(run.path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1 False", done.stderr[-2000:]
    assert "group 0 sample 0 (double): wrong_answer -> accepted, reward +0 -> +1, advantage +0 -> +0.75" in done.stdout
