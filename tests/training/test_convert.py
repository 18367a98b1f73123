"""Conversion: the same bytes back, arrays that plain Orbax restores, a folder that is complete or not there."""

import json
import os
import subprocess
import sys
import time

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from hf_folders import INDEX, architecture, contents, make_folder, run_script, silent, tensors_of

from nouscoder_jax.config import UserError
from nouscoder_jax.model import blocks, chunks
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.training import convert, new_folder
from nouscoder_jax.training.state import named_leaves

UNTIED = architecture(attention_bias=True)
TIED = architecture(tie_word_embeddings=True)


def there_and_back(source, tmp_path, **options):
    convert.from_hf(source, tmp_path / "ours", say=silent)
    chosen = {"dtype": "keep", "step": "latest", "max_shard_gb": None} | options
    convert.to_hf(tmp_path / "ours", tmp_path / "back", **chosen, say=silent)
    return tmp_path / "back"


def stored(folder):
    return {
        name: one for file in folder.glob("*.safetensors") for name, one in safetensors.numpy.load_file(file).items()
    }


@pytest.fixture
def untied(tmp_path):
    return make_folder(tmp_path / "hf", UNTIED, tensors_of(UNTIED), num_files=3)


@pytest.fixture
def small_chunks(monkeypatch):
    """Vocabulary matrices in several chunks: 97 rows, a prime, in chunks of 9 or fewer; chunks in several blocks."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 450)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)


@pytest.mark.parametrize("num_files", [1, 4])
@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_every_file_comes_back_to_the_byte(shape, num_files, small_chunks, tmp_path):
    source = make_folder(tmp_path / "hf", shape, tensors_of(shape), num_files=num_files)
    assert contents(there_and_back(source, tmp_path)) == contents(source)


def test_the_tiny_policy_comes_back_to_the_byte(root, tmp_path):
    source = root / "configs/tiny/policy"
    assert contents(there_and_back(source, tmp_path)) == contents(source)


def test_everything_has_the_permissions_that_the_umask_leaves(untied, tmp_path):
    before = os.umask(0o007)
    try:
        there_and_back(untied, tmp_path)
    finally:
        os.umask(before)
    for path in (made for name in ("ours", "back") for made in (tmp_path / name, *(tmp_path / name).rglob("*"))):
        assert path.stat().st_mode & 0o777 == (0o770 if path.is_dir() else 0o660), path


def test_a_head_that_repeats_the_embedding_comes_back(small_chunks, tmp_path):
    tensors = tensors_of(TIED)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    source = make_folder(tmp_path / "hf", TIED, tensors, num_files=2)
    assert contents(there_and_back(source, tmp_path)) == contents(source)


def test_a_foreign_header_comes_back(tmp_path):
    """Tensors in no order of ours, metadata, blanks at the end."""
    source = make_folder(tmp_path / "hf", UNTIED, tensors_of(UNTIED), num_files=1)
    file = source / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    at, header, data = 0, {"__metadata__": {"made by": "someone", "π": "3"}}, b""
    for name in sorted(tensors, key=lambda name: name[::-1]):
        end = at + tensors[name].nbytes
        header[name] = {"data_offsets": [at, end], "shape": tensors[name].shape, "dtype": "BF16"}
        at, data = end, data + tensors[name].tobytes()
    text = json.dumps(dict(reversed(header.items())), ensure_ascii=False, indent=1).encode() + b"   \n"
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert contents(there_and_back(source, tmp_path)) == contents(source)


def test_dtypes_that_differ_between_parameters_stay(tmp_path):
    tensors = tensors_of(UNTIED)
    tensors = {name: one.astype(np.float32) if "norm" in name else one for name, one in tensors.items()}
    tensors["lm_head.weight"] = np.zeros_like(tensors["lm_head.weight"], np.float16)
    source = make_folder(tmp_path / "hf", UNTIED, tensors, num_files=2)
    assert contents(there_and_back(source, tmp_path)) == contents(source)


def test_a_fetched_folder_leaves_its_cache_behind_and_links_become_files(untied, tmp_path):
    wanted = contents(untied)
    (untied / ".cache" / "huggingface").mkdir(parents=True)
    (untied / ".cache" / "huggingface" / "model.lock").write_text("")
    (untied / "README.md").rename(tmp_path / "blob")
    (untied / "README.md").symlink_to(tmp_path / "blob")
    back = there_and_back(untied, tmp_path)
    assert contents(back) == wanted and not (back / "README.md").is_symlink()


@pytest.mark.parametrize("restore", [ocp.StandardCheckpointer, ocp.PyTreeCheckpointer])
def test_plain_orbax_restores_the_stacked_arrays(restore, untied, small_chunks, tmp_path):
    convert.from_hf(untied, tmp_path / "ours", say=silent)
    with restore() as checkpointer:
        tree = checkpointer.restore(tmp_path / "ours" / "params")
    theirs = stored(untied)
    _, model = load_model(untied)
    leaves = named_leaves(model)
    names = [".".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(tree)]
    assert sorted(names) == sorted(name.replace("/", ".") for name in leaves)
    assert all(leaf.dtype == ml_dtypes.bfloat16 for leaf in jax.tree.leaves(tree))
    # out feature 3 * 10 + 7 is head 3, dimension 7
    attention = tree["layers"]["attention"]
    np.testing.assert_array_equal(
        attention["q_proj"][2, :, 3, 7], theirs["model.layers.2.self_attn.q_proj.weight"][37, :]
    )
    np.testing.assert_array_equal(
        attention["o_proj"][1, 3, 7, :], theirs["model.layers.1.self_attn.o_proj.weight"][:, 37]
    )
    for (_, got), name in zip(jax.tree.leaves_with_path(tree), names, strict=True):
        np.testing.assert_array_equal(np.asarray(got, np.float32), leaves[name.replace(".", "/")])


def test_plain_orbax_restores_onto_devices(untied, tmp_path):
    convert.from_hf(untied, tmp_path / "ours", say=silent)
    mesh = jax.make_mesh((8,), ("x",))
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(tmp_path / "ours" / "params").item_metadata
        place = jax.NamedSharding(mesh, jax.P(None, None, "x"))
        up = shapes["layers"]["mlp"]["up_proj"]
        target = jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype), dict(shapes))
        target["layers"]["mlp"]["up_proj"] = jax.ShapeDtypeStruct(up.shape, np.float32, sharding=place)
        got = checkpointer.restore(tmp_path / "ours" / "params", target)["layers"]["mlp"]["up_proj"]
    assert got.sharding == place
    np.testing.assert_array_equal(got, named_leaves(load_model(untied)[1])["layers/mlp/up_proj"])


@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_load_model_takes_a_converted_folder(shape, small_chunks, tmp_path):
    source = make_folder(tmp_path / "hf", shape, tensors_of(shape), num_files=2)
    convert.from_hf(source, tmp_path / "ours", say=silent)
    (read, ours), (wanted, theirs) = load_model(tmp_path / "ours"), load_model(source)
    assert read == wanted
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))


def test_a_cast_is_of_the_same_numbers_in_files_of_our_own(untied, small_chunks, tmp_path):
    back = there_and_back(untied, tmp_path, dtype="float32")
    got, wanted = stored(back), stored(untied)
    assert got.keys() == wanted.keys()
    for name, one in got.items():
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, wanted[name].astype(np.float32), name)
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "float32"
    assert [path.name for path in back.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_cast_to_bfloat16_rounds_to_nearest_even(tmp_path):
    tensors = tensors_of(UNTIED, dtype=np.float32)
    between = np.float32(1) + np.float32(2.0**-8)  # halfway from 1 to the next bf16
    tensors["model.norm.weight"][:3] = between, np.nextafter(between, np.float32(2)), -between - np.float32(2.0**-7)
    source = make_folder(tmp_path / "hf", UNTIED, tensors, num_files=1)
    got = stored(there_and_back(source, tmp_path, dtype="bfloat16"))["model.norm.weight"]
    assert got[:3].astype(np.float32).tolist() == [1.0, 1.0 + 2.0**-7, -1.0 - 2.0**-6]


def test_other_files_may_be_asked_for(untied, tmp_path):
    back = there_and_back(untied, tmp_path, max_shard_gb=1e-5)
    files = sorted(path for path in back.glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((back / INDEX).read_text())
    assert index["weight_map"] == {name: file.name for file in files for name in safetensors.numpy.load_file(file)}
    got, wanted = stored(back), stored(untied)
    assert {name: one.tobytes() for name, one in got.items()} == {name: one.tobytes() for name, one in wanted.items()}
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in wanted.values())


def test_transformers_gives_the_same_logits(root, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: transformers is not asked")
    import transformers

    source = tmp_path / "hf"
    policy = transformers.AutoModelForCausalLM.from_pretrained(root / "configs/tiny/policy", dtype=torch.bfloat16)
    policy.save_pretrained(source, max_shard_size="500KB")
    transformers.AutoTokenizer.from_pretrained(root / "configs/tiny/policy").save_pretrained(source)
    assert (source / INDEX).exists()
    back = there_and_back(source, tmp_path)
    assert contents(back) == contents(source)
    tokens = torch.arange(40).reshape(2, 20)
    models = [transformers.AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (source, back)]
    with torch.no_grad():
        wanted, got = (model(tokens).logits for model in models)
    assert torch.equal(wanted, got)
    assert transformers.AutoTokenizer.from_pretrained(back)("print(1)") == transformers.AutoTokenizer.from_pretrained(
        source
    )("print(1)")


def test_the_script_says_what_it_wrote(untied, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, "from-hf", untied, "--out", tmp_path / "ours") == 0
    assert f"wrote {tmp_path / 'ours'} from {untied}" in capsys.readouterr().out
    assert run_script(monkeypatch, "to-hf", tmp_path / "ours", "--out", tmp_path / "back") == 0
    assert "(0.00 GB, 48 tensors, " in capsys.readouterr().out
    assert contents(tmp_path / "back") == contents(untied)


def test_an_empty_folder_is_filled_and_what_a_crash_left_is_cleared(untied, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / ".ours.part").mkdir()
    (tmp_path / ".ours.part" / "half").write_text("")
    convert.from_hf(untied, tmp_path / "ours", say=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "ours"]
    assert not (tmp_path / "ours" / "half").exists()


def test_a_killed_conversion_leaves_no_folder_and_the_next_one_succeeds(root, tmp_path):
    big = architecture(vocab_size=20000, hidden_size=256, intermediate_size=4096, num_layers=4)
    source = make_folder(tmp_path / "hf", big, tensors_of(big), num_files=1)
    arguments = ["scripts/convert.py", "from-hf", str(source), "--out", str(tmp_path / "ours")]
    # It stops for ever before the folder gets its name, and is killed there or on the way there.
    waits = (
        "import os, runpy, sys, time\n"
        "rename = os.rename\n"
        "os.rename = lambda *paths: time.sleep(600) if str(paths[1]).endswith('/ours') else rename(*paths)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", waits, *arguments]
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    part = tmp_path / ".ours.part" / "params"
    while process.poll() is None and len(list(part.glob("*/c.*"))) < 3:
        time.sleep(0.001)
    assert process.poll() is None and part.is_dir()
    process.kill()
    process.wait()
    assert not (tmp_path / "ours").exists()
    convert.from_hf(source, tmp_path / "ours", say=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "ours"]
    convert.to_hf(tmp_path / "ours", tmp_path / "back", dtype="keep", step="latest", max_shard_gb=None, say=silent)
    assert contents(tmp_path / "back") == contents(source)


def test_progress_ends_with_all_bytes(untied, tmp_path):
    said = []
    convert.from_hf(untied, tmp_path / "ours", say=said.append)
    assert len(said) > 10 and said[-1].startswith("0.00 of 0.00 GB") and said[-1].endswith(", 0 s left")


def test_no_room_is_told_beforehand(untied, tmp_path, monkeypatch):
    usage = new_folder.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(new_folder.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"ours needs 0\.00 GB and its disk has 0\.00 GB free"):
        convert.from_hf(untied, tmp_path / "ours", say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_disk_that_fills_up_meanwhile_is_told_and_nothing_is_left(root, untied, tmp_path):
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        f"sys.argv = ['convert.py', 'from-hf', {str(untied)!r}, '--out', {str(tmp_path / 'ours')!r}]\n"
        "runpy.run_path('scripts/convert.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"cannot write {tmp_path / 'ours'}" in done.stderr and "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_one_file_has_no_index(tmp_path):
    source = make_folder(tmp_path / "hf", UNTIED, tensors_of(UNTIED), num_files=1)
    back = there_and_back(source, tmp_path, max_shard_gb=5.0)
    assert not (back / INDEX).exists()
    assert stored(back).keys() == stored(source).keys()
