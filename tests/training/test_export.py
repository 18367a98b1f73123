"""Exports and conversion: transformers reads them, and reading them back gives the same bits."""

import runpy
import sys

import jax
import numpy as np
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.export import convert_run, export, prune, version_dir
from nouscoder_jax.training.state import named_leaves


@pytest.fixture
def run_dir(tmp_path, make_config, start, architecture):
    """A run folder whose checkpoint has other weights than its export."""
    config = make_config()
    _, state = start(config)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    zeros = jax.tree.map(lambda leaf: np.zeros_like(leaf), jax.device_get(state.model))
    export(zeros, architecture, version_dir(folder / "weights", 0), dtype="float32", tokenizer_dir=None)
    with Checkpointer(folder / "checkpoints", keep=1) as checkpointer:
        checkpointer.save(5, state, {})
    return folder, jax.device_get(state.model)


def test_converted_weights_read_back_bit_for_bit(run_dir, tmp_path, architecture):
    folder, model = run_dir
    assert convert_run(folder, tmp_path / "out", dtype="float32") == 5
    read_architecture, read = load_model(tmp_path / "out")
    assert read_architecture == architecture
    for name, leaf in named_leaves(read).items():
        np.testing.assert_array_equal(leaf, named_leaves(model)[name])


def test_transformers_gives_our_logits(run_dir, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: parity with transformers is not checked")
    import transformers

    folder, model = run_dir
    convert_run(folder, tmp_path / "out", dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 20)).astype(np.int32)
    positions = np.tile(np.arange(20, dtype=np.int32), (2, 1))
    ones = np.ones((2, 20), np.int32)
    model = jax.tree.map(jax.numpy.asarray, model)
    forward = jax.jit(qwen3.forward, static_argnames=("compute_dtype", "attention", "remat"))
    hidden = forward(model, tokens, positions, ones, compute_dtype="float32", attention="reference", remat="none")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(qwen3.logits(hidden, qwen3.output_embedding(model)), expected, atol=1e-4)


def test_prune_keeps_the_newest_two(tmp_path):
    for version in (1, 2, 9, 10):
        version_dir(tmp_path, version).mkdir()
    prune(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy-000009", "policy-000010"]


def test_a_folder_that_holds_something_is_refused(run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="out already holds something"):
        convert_run(run_dir[0], tmp_path / "out", dtype="float32")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def run_script(root, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(root / "scripts" / "convert.py"), run_name="__main__")
    return caught.value.code


def test_the_script_converts_to_bfloat16(root, run_dir, tmp_path, monkeypatch, capsys):
    arguments = ("--checkpoint", run_dir[0], "--out", tmp_path / "out", "--dtype", "bfloat16")
    assert run_script(root, monkeypatch, *arguments) == 0
    assert "from step 5" in capsys.readouterr().out
    leaves = named_leaves(load_model(tmp_path / "out")[1])
    wanted = named_leaves(run_dir[1])["layers/mlp/up_proj"].astype(jax.numpy.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(leaves["layers/mlp/up_proj"], wanted)


@pytest.mark.parametrize("damage", ["no run", "no checkpoint", "truncated"])
def test_the_script_answers_bad_input_with_one_line_and_exit_code_2(
    root, run_dir, tmp_path, monkeypatch, capsys, damage
):
    folder, _ = run_dir
    if damage == "no run":
        folder = tmp_path / "nowhere"
    elif damage == "no checkpoint":
        (folder / "checkpoints" / "5").rename(tmp_path / "elsewhere")
    else:
        for file in (p for p in (folder / "checkpoints" / "5" / "state").rglob("d/*") if p.is_file()):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run_script(root, monkeypatch, "--checkpoint", folder, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error
    assert not (tmp_path / "out").exists()
