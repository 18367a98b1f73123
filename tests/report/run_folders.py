"""Run folders made by hand, as small or as large as a test wants them."""

import json

from nouscoder_jax.data.store import content_hash
from nouscoder_jax.metrics.sinks import JsonlSink

PROBLEM = {
    "id": "sum/1",
    "source": "test",
    "license": "Apache-2.0",
    "statement": "Print the sum.",
    "io": "stdin",
    "fn_name": None,
    "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4\n"}],
    "time_limit_s": None,
    "memory_limit_mb": None,
    "checker": "tokens",
}
HOSTILE = (
    "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"
    "<svg onload='window.hurt = 3'> \x1b[31mred\x1b[0m nul \x00 lone \ud800 line \u2028 rtl \u202e end <!-- -->"
)


def rollout(step, group=0, sample=0, **changed):
    """A line of a rollout that failed test 2."""
    verdict = {
        "outcome": "wrong_answer",
        "tests_passed": 1,
        "tests_total": 2,
        "cpu_s": 0.01,
        "peak_memory_mib": 10.0,
        "detail": "test 2: token 1: expected '4', got '5'",
        "failed_test": 2,
        "got": "5\n",
    }
    line = {
        "step": step,
        "group_id": group,
        "sample_index": sample,
        "problem_id": "sum/1",
        "prompt": "<|im_start|>user\nPrint the sum.<|im_end|>\n",
        "policy_version": step,
        "finish_reason": "stop",
        "num_tokens": 10,
        "version_spans": [],
        "text": "<think>two numbers</think>\n```python\nprint(5)\n```",
        "program": "print(5)\n",
        "rules_differ": False,
        "verdict": verdict,
        "reward": -1.0,
        "advantage": -0.5,
        "drop_reason": None,
        "trained": True,
    }
    return line | changed


def accepted(step, group=0, sample=0, **changed):
    """A line of a rollout that is right."""
    verdict = {"outcome": "accepted", "tests_passed": 2, "tests_total": 2, "cpu_s": 0.01, "peak_memory_mib": 10.0}
    right = {
        "verdict": verdict | {"detail": "", "failed_test": None, "got": ""},
        "reward": 1.0,
        "program": "print(4)\n",
    }
    return rollout(step, group, sample, **right | changed)


def metrics_of(step, **changed):
    """A line of metrics."""
    line = {"step": step, "reward/mean": -0.5 + step / 10, "solved_share": 0.2, "update/entropy": 0.1}
    line |= {"groups/used": 16, "groups/dropped": 4, "groups/all_solved": 1, "groups/none_solved": 3}
    return line | changed


def make_run(folder, steps=(), held_out=(), metrics=(), *, problems=True, name="tiny"):
    """A run folder. `steps` and `held_out`: step -> lines. `problems`: whether its problem file is there."""
    folder.mkdir(parents=True)
    path = folder.parent / f"{folder.name}-problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n")
    data = {"problems": str(path), "held_out": str(path)}
    config = {"name": name, "seed": 0, "num_steps": 8, "data": data, "loss": {"name": "dapo"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "inputs.json").write_text(json.dumps({f"data.{field}": content_hash(path) for field in data}))
    if not problems:
        path.unlink()
    for kind, files in (("rollouts", dict(steps)), ("held_out", dict(held_out))):
        (folder / kind).mkdir()
        for step, lines in files.items():
            write_step(folder, step, lines, kind=kind)
    sink = JsonlSink(folder / "metrics.jsonl", resume_step=None)
    for line in metrics:
        sink.write(line)
    sink.close()
    return folder


def write_step(folder, step, lines, *, kind="rollouts"):
    """Writes a step's rollouts as a run does, at once."""
    path = folder / kind / f"step-{step:06d}.jsonl"
    part = path.with_name("part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    part.rename(path)
