"""A run's checkpoint as a Hugging Face directory: the policy alone, bit for bit, whichever step is asked for."""

import json
import re

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from hf_folders import INDEX, run_script, silent

from nouscoder_jax.config import UserError
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.weights import hf_tensors, load_model
from nouscoder_jax.training import checkpoint, convert, run_weights
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.export import export, version_dir
from nouscoder_jax.training.hf_writer import HfWriter
from nouscoder_jax.training.state import named_leaves


@pytest.fixture
def run_dir(tmp_path, make_config, start, architecture):
    """A run folder with checkpoints 3 (best) and 5 (newest), its engine's weights are other ones; and the policies."""
    config = make_config()
    _, state = start(config)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    zeros = jax.tree.map(lambda leaf: np.zeros_like(leaf), jax.device_get(state.model))
    weights = version_dir(folder / "weights", 0)
    export(zeros, architecture, weights, dtype="float32", tokenizer_dir=None, policy_version=0)
    doubled = state._replace(model=jax.tree.map(lambda leaf: 2 * leaf, state.model))
    with Checkpointer(folder / "checkpoints", keep=2) as checkpointer:
        checkpointer.save(3, doubled, {}, pass_at_1=0.5)
        checkpointer.save(5, state, {}, pass_at_1=0.25)
    return folder, {3: jax.device_get(doubled.model), 5: jax.device_get(state.model)}


def to_hf(folder, out, **options):
    chosen = {"dtype": "keep", "step": "latest", "max_shard_gb": None} | options
    return convert.to_hf(folder, out, **chosen, say=silent)


def stored(folder):
    return {
        name: one for file in folder.glob("*.safetensors") for name, one in safetensors.numpy.load_file(file).items()
    }


@pytest.mark.parametrize(("step", "number"), [("latest", 5), (5, 5), (3, 3), ("best", 3)])
def test_the_weights_of_a_step_read_back_bit_for_bit(step, number, run_dir, tmp_path, architecture):
    folder, models = run_dir
    done = to_hf(folder, tmp_path / "out", step=step)
    assert done.what == f"step {number} of {folder}"
    read_architecture, read = load_model(tmp_path / "out")
    assert read_architecture == architecture
    for name, leaf in named_leaves(read).items():
        np.testing.assert_array_equal(leaf, named_leaves(models[number])[name])


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_every_tensor_has_the_bytes_of_an_export(dtype, run_dir, tmp_path):
    folder, models = run_dir
    to_hf(folder, tmp_path / "out", dtype=dtype, max_shard_gb=1e-5)
    got, wanted = stored(tmp_path / "out"), hf_tensors(models[5], dtype="float32" if dtype == "keep" else dtype)
    assert got.keys() == wanted.keys() and (tmp_path / "out" / INDEX).exists()
    for name, one in wanted.items():
        assert (got[name].dtype, got[name].tobytes()) == (one.dtype, one.tobytes()), name
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"]
    assert stated == got["model.norm.weight"].dtype.name


def test_moments_are_not_read(run_dir, tmp_path):
    """What is opened is the policy: as many arrays as it has, each under its name."""
    folder, models = run_dir
    found = run_weights.open_run(folder, step="latest")
    assert found.arrays.keys() == named_leaves(models[5]).keys()


def test_transformers_gives_our_logits(run_dir, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: parity with transformers is not checked")
    import transformers

    folder, models = run_dir
    to_hf(folder, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 20)).astype(np.int32)
    positions = np.tile(np.arange(20, dtype=np.int32), (2, 1))
    ones = np.ones((2, 20), np.int32)
    model = jax.tree.map(jax.numpy.asarray, models[5])
    forward = jax.jit(qwen3.forward, static_argnames=("compute_dtype", "attention", "remat"))
    hidden = forward(model, tokens, positions, ones, compute_dtype="float32", attention="reference", remat="none")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(qwen3.logits(hidden, qwen3.output_embedding(model)), expected, atol=1e-4)


def test_large_weights_are_saved_by_layer(tmp_path, monkeypatch, make_config, start, architecture):
    _, state = start(make_config())
    leaf = named_leaves(state.model)["layers/mlp/up_proj"]
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", leaf[:1].nbytes)
    with Checkpointer(tmp_path / "checkpoints", keep=2) as checkpointer:
        checkpointer.save(1, state, {})
    arrays = run_weights._open_arrays(tmp_path / "checkpoints" / "1", architecture)
    assert arrays["layers/mlp/up_proj"].chunk_layout.read_chunk.shape == (1, *leaf.shape[1:]) != leaf.shape
    np.testing.assert_array_equal(arrays["layers/mlp/up_proj"].read().result(), leaf)


def test_a_checkpoint_in_chunks_is_read_a_layer_at_a_time(run_dir, tmp_path, monkeypatch):
    """As one is that was saved with chunks along the layers; small ones are read together."""
    folder, models = run_dir
    whole = run_weights.open_run(folder, step=5)
    leaves = {f"model/{name}": leaf for name, leaf in named_leaves(models[5]).items()}
    small = jax.tree.map(lambda leaf: ocp.SaveArgs(chunk_byte_size=leaf[:1].nbytes, shard_axes=(0,)), leaves)
    state = whole.folder / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(state, args=ocp.args.PyTreeSave(leaves, save_args=small), force=True)
    fine = run_weights.RunWeights(
        folder=whole.folder, step=5, described=whole.described, architecture=whole.architecture,
        arrays=run_weights._open_arrays(whole.folder, whole.architecture),
    )  # fmt: skip
    headers = convert.plan_headers(whole.architecture, whole.dtypes, 1.0)
    (tmp_path / "out").mkdir()
    with HfWriter(tmp_path / "out", headers) as writer:
        assert len(list(fine.jobs(writer))) == len(leaves)
        monkeypatch.setattr(run_weights, "CHUNK_BYTES", 1)
        jobs = list(fine.jobs(writer))
        for job in jobs:
            job.work()
    assert {name: array.chunk_layout.read_chunk.shape[0] for name, array in fine.arrays.items()} == dict.fromkeys(
        fine.arrays, 1
    )
    assert len(jobs) == sum(leaf.shape[0] for leaf in leaves.values()) > len(list(whole.jobs(writer)))
    wanted = hf_tensors(models[5], dtype="float32")
    assert {name: one.tobytes() for name, one in stored(tmp_path / "out").items()} == {
        name: one.tobytes() for name, one in wanted.items()
    }


def test_a_nan_in_a_checkpoint_is_named(run_dir, make_config, start, tmp_path):
    folder, _ = run_dir
    _, state = start(make_config())
    spoilt = state.model.layers.mlp.up_proj[...].at[1, 7, 11].set(np.nan)
    state.model.layers.mlp.up_proj = type(state.model.layers.mlp.up_proj)(spoilt)
    with Checkpointer(folder / "checkpoints", keep=2) as checkpointer:
        checkpointer.save(9, state, {})
    with pytest.raises(
        UserError, match=r"checkpoints/9: tensor model\.layers\.1\.mlp\.up_proj\.weight is NaN at \[11, 7\]"
    ):
        to_hf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_script_converts_to_bfloat16(run_dir, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, "to-hf", run_dir[0], "--out", tmp_path / "out", "--dtype", "bfloat16") == 0
    assert "from step 5" in capsys.readouterr().out
    leaves = named_leaves(load_model(tmp_path / "out")[1])
    wanted = named_leaves(run_dir[1][5])["layers/mlp/up_proj"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(leaves["layers/mlp/up_proj"], wanted)


def tear(folder):
    for file in (path for path in (folder / "checkpoints" / "5" / "state").rglob("d/*") if path.is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(folder):
    """The same sizes, other bytes: only reading finds out."""
    for file in (path for path in (folder / "checkpoints" / "5" / "state").rglob("d/*") if path.is_file()):
        file.write_bytes(bytes(byte ^ 0x55 for byte in file.read_bytes()))


@pytest.mark.parametrize(
    ("damage", "step", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "latest", "holds no run .*give to-hf the folder"),
        (lambda folder: (folder / "checkpoints").rename(folder / "elsewhere"), "latest", "has no checkpoints folder"),
        (lambda folder: None, 4, "no complete checkpoint 4 in .*; complete are: 3, 5"),
        (tear, 5, "checkpoints/5 is damaged"),
        (spoil, "latest", "checkpoints/5 is damaged: parameter embed_tokens"),
    ],
    ids=["no run", "no checkpoints", "another step", "truncated", "spoilt"],
)
def test_bad_input_is_answered_with_one_line_and_exit_code_2(
    damage, step, told, run_dir, tmp_path, monkeypatch, capsys
):
    folder, _ = run_dir
    damage(folder)
    assert run_script(monkeypatch, "to-hf", folder, "--out", tmp_path / "out", "--step", step) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error and re.search(told, error), error
    assert not (tmp_path / "out").exists()


def test_latest_is_the_newest_complete_one(run_dir, tmp_path):
    tear(run_dir[0])
    assert to_hf(run_dir[0], tmp_path / "out").what.startswith("step 3 of")
