"""scripts/plan.py from outside: figures, JSON, refusals."""

import io
import json
import os
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.planning import plan as script
from nouscoder_jax.planning import report

SMALL = dict(
    model_type="qwen3", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=8, head_dim=8, rope_theta=1e6, rms_norm_eps=1e-6,
    max_position_embeddings=256, tie_word_embeddings=True,
)  # fmt: skip
# 2 layers of 4 x 32 x 64 (attention), 3 x 32 x 64 (MLP), 2 x 32 + 2 x 8 (norms); the embedding; the last norm
PARAMETERS = 2 * (4 * 2048 + 3 * 2048 + 80) + 64 * 32 + 32


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> list[str]:
    """Arguments of a plan that compiles in seconds."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(SMALL))
    sizes = {"data.max-prompt-tokens": 28, "rollout.max-completion-tokens": 100, "experience.row-tokens": 128}
    arguments = ["--config", "configs/tiny.py", "--model.path", str(folder)]
    return arguments + [f"--{name}={value}" for name, value in sizes.items()]


def plan(root, *arguments):
    # The same program, compiled in a third of the time.
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment.pop("XLA_FLAGS", None)  # the tests' own fake devices, which a user does not have
    return subprocess.run(
        [sys.executable, "scripts/plan.py", *arguments], cwd=root, capture_output=True, text=True, env=environment
    )


def refusal(root, *arguments) -> str:
    """What the script would refuse with, asked in this process, whose jax keeps the devices that it has."""
    jax.devices()
    parser = cli.make_parser("", default_config="")
    script.add_options(parser)
    with pytest.raises(UserError) as refused:
        script.run(*cli.load(parser, ["--config", str(root / "configs/dapo.py"), *arguments]))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="session")
def host_plan(root, small):
    """JSON of a small model on 2 GPUs, by the host's compiler."""
    done = plan(root, *small, "--gpu", "h100", "--gpus", "2", "--compiler", "host", "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_json_has_every_part_of_the_plan(host_plan):
    assert host_plan["parameters"] == PARAMETERS
    for field in ("argument_bytes", "temp_bytes", "peak_bytes"):
        assert isinstance(host_plan[field], int) and host_plan[field] > 0
    assert host_plan["peak_bytes"] >= host_plan["argument_bytes"] + host_plan["temp_bytes"]
    assert host_plan["collectives"] and all(
        one["count"] > 0 and one["bytes"] > 0 for one in host_plan["collectives"].values()
    )
    assert host_plan["update"]["flops"]["model"] > 0 and 0 < host_plan["update"]["mfu"] < 1
    assert {one["kind"] for one in host_plan["placements"]} == {"split", "colocated"}
    assert host_plan["longest_row"]["size"] >= 256 and host_plan["most_rows_per_gpu"]["size"] >= 1
    assert [one["train_gpus"] for one in host_plan["head"]] == [1, 2]
    told = host_plan["placements"][0]["commands"]
    assert told[0].startswith("python scripts/train.py --config configs/tiny.py --") and len(told) == 1
    assert host_plan["run"]["steps"] == 24 and host_plan["run"]["hours"] > 0 and host_plan["assumptions"]


def test_the_host_compiler_says_that_it_estimates(host_plan):
    assert host_plan["estimates"] and "ESTIMATES" in host_plan["compiler"] and "ESTIMATES" in host_plan["notes"][0]


def test_weights_and_moments_are_sharded_over_all_gpus(host_plan):
    assert host_plan["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1}
    # 12 bytes a parameter over 2 GPUs, norms whole, and the batch
    whole = 12 * PARAMETERS / 2
    norms_and_batch = 12 * 200 + 8 * 128 * 40 * host_plan["update"]["micro_batches"]
    assert whole <= host_plan["argument_bytes"] <= whole + norms_and_batch


def test_people_get_tables(host_plan):
    console = Console(record=True, width=140, file=io.StringIO())
    report.show(host_plan, console)
    shown = " ".join(console.export_text().split())
    for expected in (f"{PARAMETERS:,} parameters", "2 x NVIDIA H100", "ESTIMATES", "peak", "longest row", "all-gather",
                     "colocated", "MFU", "what the head, process 0, does", "24 steps", "to run it so:",
                     "assumed:"):  # fmt: skip
        assert expected in shown


@pytest.mark.slow
def test_the_real_gpu_compiler_plans_a_small_model(root, small, gpu_compiler, tmp_path):
    out = tmp_path / "plan.json"
    done = plan(root, *small, "--gpu", "h200", "--gpus", "8", "--json", str(out))
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
        (["--gpu", "h100", "--gpus", "2"], "4 GPUs with --mesh.data 1 --mesh.fsdp 4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_what_would(root, arguments, expected):
    assert expected in refusal(root, *arguments)


def test_the_script_ends_with_2_and_one_line(root, small):
    done = plan(root, *small, "--gpu", "a100")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --gpu got 'a100'; it takes one of b200, h100, h200\n"


@pytest.mark.slow
def test_rows_that_do_not_fit_are_refused_with_those_that_do(root, small):
    done = plan(root, *small, "--gpu", "h100", "--compiler", "host", "--experience.rows-per-micro-batch", "4194304")
    (line,) = done.stderr.strip().splitlines()
    assert (
        done.returncode == 2 and "the update needs" in line and "has 79.8 GB to use of 84.9" in line and "GPUs" in line
    )
    assert "84.9 (ESTIMATES of this machine's own compiler" in line
    rows = int(line.partition("--experience.rows-per-micro-batch ")[2].split()[0])
    assert 0 < rows < 4194304
