"""scripts/plan.py from outside: figures, JSON, refusals."""

import json
import os
import subprocess
import sys

import pytest

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.planning import plan as script

TINY = ["--config", "configs/tiny.py", "--data.max-prompt-tokens", "100", "--rollout.max-completion-tokens", "128",
        "--experience.row-tokens", "256", "--experience.rows-per-micro-batch", "8"]  # fmt: skip


def plan(root, *arguments):
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "scripts/plan.py", *arguments], cwd=root, capture_output=True, text=True, env=environment
    )


def refusal(root, *arguments) -> str:
    """What the script would refuse with, asked in this process: jax is loaded here already."""
    parser = cli.make_parser("", default_config="")
    script.add_options(parser)
    with pytest.raises(UserError) as refused:
        config, options = cli.load(parser, ["--config", str(root / "configs/dapo.py"), *arguments])
        script.run(config, options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="session")
def host_plan(root):
    """JSON of the tiny config on 8 GPUs, by the host's compiler."""
    done = plan(root, *TINY, "--gpu", "h100", "--gpus", "8", "--compiler", "host", "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_json_has_every_part_of_the_plan(host_plan):
    assert host_plan["parameters"] == 1_082_752
    for field in ("argument_bytes", "temp_bytes", "peak_bytes"):
        assert isinstance(host_plan[field], int) and host_plan[field] > 0
    assert host_plan["peak_bytes"] >= host_plan["argument_bytes"] + host_plan["temp_bytes"]
    assert host_plan["collectives"] and all(
        one["count"] > 0 and one["bytes"] > 0 for one in host_plan["collectives"].values()
    )
    assert host_plan["update"]["flops"]["model"] > 0 and 0 < host_plan["update"]["mfu"] < 1
    assert {one["kind"] for one in host_plan["placements"]} == {"split", "colocated"}
    assert host_plan["longest_row"]["size"] >= 256 and host_plan["most_rows_per_gpu"]["size"] >= 1
    assert host_plan["run"]["steps"] == 24 and host_plan["run"]["hours"] > 0 and host_plan["assumptions"]


def test_the_host_compiler_says_that_it_estimates(host_plan):
    assert host_plan["estimates"] and "ESTIMATES" in host_plan["compiler"] and "ESTIMATES" in host_plan["notes"][0]


def test_weights_and_moments_are_sharded_over_all_gpus(host_plan):
    assert host_plan["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    # 12 bytes a parameter over 8 GPUs, norms whole, and the batch
    assert host_plan["argument_bytes"] == pytest.approx(12 * 1_082_752 / 8, rel=0.1)


def test_people_get_tables(root):
    done = plan(root, *TINY, "--gpu", "b200", "--compiler", "host", "--steps", "7")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for expected in ("1,082,752 parameters", "1 x NVIDIA B200", "ESTIMATES", "peak", "longest row", "colocated", "MFU",
                     "7 steps", "assumed:"):  # fmt: skip
        assert expected in shown
    assert done.stderr.strip() == ""


@pytest.mark.slow
def test_the_real_gpu_compiler_plans_the_tiny_config(root, gpu_compiler, tmp_path):
    out = tmp_path / "plan.json"
    done = plan(root, *TINY, "--gpu", "h200", "--gpus", "8", "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert not found["estimates"] and "NVIDIA H200" in found["compiler"]
    assert found["longest_row"]["compiled"]
    assert "all-gather" in found["collectives"] and "NVIDIA H200" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpu", "a100"], "takes one of b200, h100, h200"),
        (["--gpus", "12"], "use 8 or 16"),
        (["--gpus", "-1"], "neither can be below 0"),
        (["--gpus", "7"], "8 GPUs with --mesh.data 1 --mesh.fsdp 8"),
        (["--mesh.data", "1", "--mesh.fsdp", "48"], "48 devices fit as data 3 x fsdp 16 x tensor 1"),
        (["--model.path", "nobody/nothing"], "known are Qwen/Qwen3-0.6B"),
        (["--kept-groups", "0"], "a share above 0"),
        (["--completion-tokens", "99999999"], "rollout.max_completion_tokens"),
        (["--gpuz", "3"], "unknown option --gpuz"),
        (["--gpu", "h100", "--gpus", "4"], "GPUs with --mesh.data 1 --mesh.fsdp 8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_what_would(root, arguments, expected):
    assert expected in refusal(root, *arguments)


def test_the_script_ends_with_2_and_one_line(root):
    done = plan(root, *TINY, "--gpu", "a100")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --gpu got 'a100'; it takes one of b200, h100, h200\n"


def test_rows_that_do_not_fit_are_refused_with_those_that_do(root):
    done = plan(root, *TINY, "--gpu", "h100", "--compiler", "host", "--experience.rows-per-micro-batch", "8192")
    (line,) = done.stderr.strip().splitlines()
    assert (
        done.returncode == 2 and "the update needs" in line and "has 79.8 GB to use of 84.9" in line and "GPUs" in line
    )
