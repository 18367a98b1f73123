"""The summary of a run says what was measured and nothing else."""

import dataclasses
import json
from unittest import mock

import pytest

from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.loop import console
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.setup import Components, ProblemSet
from nouscoder_jax.rollout.extract import Extracted
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.verifier.judge import SandboxJudge


@pytest.mark.parametrize(
    ("measured", "before", "after", "told"),
    [
        ([0.2, None, 0.6], 0.2, 0.6, "20.0% before, 60.0% after 2 steps"),
        ([0.2, 0.5, None], 0.2, None, "20.0% before, not measured after 2 steps"),
        ([None, 0.5, 0.6], None, 0.6, "not measured before, 60.0% after 2 steps"),
        ([None, None, None], None, None, "not measured before, not measured after 2 steps"),
    ],
)
def test_an_evaluation_that_was_not_judged_is_no_figure(tiny_config, tmp_path, measured, before, after, told):
    lines = [{"step": step, "held_out/pass_at_1": share} for step, share in enumerate(measured)]
    summary, said = finished(tiny_config, tmp_path, lines)
    assert (summary["pass_at_1_before"], summary["pass_at_1_after"]) == (before, after)
    assert any(told in line for line in said)


def test_where_the_two_rules_of_extraction_differ_is_counted(tiny_config, tmp_path):
    lines = [{"step": 1, "programs/rules_differ": 3.0}, {"step": 2, "programs/rules_differ": 4.0}]
    summary, said = finished(tiny_config, tmp_path, lines)
    assert summary["extract_rules_differ"] == 7
    assert any("'original' takes another program from 7 completions" in line for line in said)


def finished(tiny_config, tmp_path, lines):
    """Summary and lines of a run of two steps with these metrics."""
    folder = RunFolder(path=tmp_path)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = ProblemSet(problems=(), prompts={}, num_left_out=0)
    judge = mock.create_autospec(SandboxJudge, instance=True)
    judge.name = "none"
    components = Components(
        config=dataclasses.replace(tiny_config, num_steps=2),
        prompt_maker=mock.create_autospec(PromptMaker, instance=True),
        train=problems,
        held_out=problems,
        judge=judge,
        extract=lambda prompt, completion, text: Extracted(None, False),
    )
    progress, said = Progress(step=2), []
    console.finish(components, folder, progress, seconds=1.0, say=said.append)
    return json.loads(folder.summary.read_text()), said
