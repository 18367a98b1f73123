"""Every config file is pinned by a golden dump, so that a changed default is seen in review."""

import difflib
import json
import os
from pathlib import Path

import pytest
from small import change

from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import TrainConfig, UserError

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests/golden"
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
NAMES = [path.stem for path in CONFIGS]
FIELDS_OF_AN_OBJECTIVE = {
    "grpo": {"name", "loss.name", "loss.clip_high"},
    "gspo": {"name", "loss.name", "loss.clip_low", "loss.clip_high"},
    "gspo_plus": {"name", "loss.name", "loss.clip_low", "loss.clip_high"},
}


def load(name: str) -> TrainConfig:
    return load_config_file(ROOT / "configs" / f"{name}.py")


def dump(config: TrainConfig) -> str:
    lines = (f"{field}: {json.dumps(value)}" for field, value in config.flatten().items())
    # The checkout's own folder must not enter the dump.
    return "\n".join(lines).replace(str(ROOT / "configs") + "/", "") + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_config_equals_its_golden_dump(name):
    golden, now = GOLDEN / f"{name}.txt", dump(load(name))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(now)
    before = golden.read_text() if golden.is_file() else ""
    changes = "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), "golden", "now", lineterm="", n=0))
    assert now == before, f"{changes}\nmeant? UPDATE_GOLDEN=1 pytest tests/test_config.py"


def test_every_golden_dump_has_its_config():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_survives_json(name):
    config = load(name)
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_named_like_its_file(name):
    assert load(name).name == name


@pytest.mark.parametrize("name", FIELDS_OF_AN_OBJECTIVE)
def test_an_objective_differs_from_dapo_in_exactly_these_fields(name):
    dapo, other = load("dapo").flatten(), load(name).flatten()
    assert {field for field in dapo if dapo[field] != other[field]} == FIELDS_OF_AN_OBJECTIVE[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_file_says_its_command_and_its_result(name):
    doc = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
    assert f"--config configs/{name}.py" in doc or name == "tiny"
    assert "Result:" in doc and "Cost:" in doc


def test_a_stored_config_of_another_version_is_a_user_error():
    with pytest.raises(UserError, match="does not fit this version"):
        TrainConfig.from_json('{"name": "x", "unknown": 1}')


def test_the_full_experiment_is_the_published_one():
    config = load("dapo")
    assert config.mesh.num_devices == config.min_gpus == 48
    assert config.data.max_prompt_tokens + config.rollout.max_completion_tokens == 32768
    assert config.verifier.default_time_limit_s == 15 and config.verifier.memory_limit_mib == 4096


@pytest.mark.parametrize(
    ("section", "changes", "told"),
    [
        ("rollout", {"top_p": 0.8}, "rollout.top_p is 0.8; training needs 1"),
        ("rollout", {"top_k": 5}, "rollout.top_k is 5; training needs 0"),
        ("checkpoint", {"export_dtype": "bfloat16"}, "the engine would see only a part of every change"),
        ("optimizer", {"max_skipped": 0}, "optimizer.max_skipped is 0"),
        ("loss", {"name": "cispo", "dual_clip": 3.0}, "loss.dual_clip is 3.0, which cispo has no use for"),
        ("experience", {"advantage": "group_mean", "std_ddof": 1}, "std_ddof is 1, and group_mean takes no standard"),
        ("experience", {"advantage": "leave_one_out", "std_ddof": 1}, "set --experience.std-ddof 0"),
    ],
)
def test_what_would_train_on_wrong_figures_is_refused(tiny_config, section, changes, told):
    with pytest.raises(ValueError, match=told):
        change(tiny_config, **{section: changes})
