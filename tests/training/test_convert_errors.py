"""Conversion of what is not as it should be: one line that names the tensor and the file, exit code 2, no folder."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hf_folders import INDEX, architecture, change_shard, contents, make_folder, run_script, silent, tensors_of

from nouscoder_jax.config import UserError
from nouscoder_jax.model import blocks
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.training import convert

SHAPE = architecture()
TIED = architecture(tie_word_embeddings=True)
FIRST, LAST = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "hf", SHAPE, tensors_of(SHAPE), num_files=3)


def weight_map(folder) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def file_of(folder, name):
    return weight_map(folder)[name]


def write_index(folder, change) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def edit_header(path, old: bytes, new: bytes) -> None:
    """Replaces bytes of the header by as many others."""
    assert len(old) == len(new) and old in path.read_bytes()[:20000]
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def refused(monkeypatch, capsys, tmp_path, *arguments) -> str:
    """What the script says, in one line, after it has left nothing behind."""
    before = contents(tmp_path)
    assert run_script(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists() and contents(tmp_path) == before
    return said


@pytest.fixture
def from_hf(monkeypatch, capsys, tmp_path, folder):
    """Says how from-hf refuses the folder, by names of files in it."""
    return lambda: refused(monkeypatch, capsys, tmp_path, "from-hf", folder).replace(f"{folder}/", "")


def test_a_truncated_file_names_the_tensor_that_is_cut(folder, from_hf):
    last = list(safetensors.numpy.load_file(folder / LAST))[-1]
    data = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(data[:-1])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__")
    last = max(header, key=lambda name: header[name]["data_offsets"])
    assert f"{LAST} is truncated within tensor {last}: it has {len(data) - 1} bytes" in from_hf()


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_file_truncated_within_its_header_names_a_tensor_of_it(size, folder, from_hf):
    (folder / LAST).write_bytes((folder / LAST).read_bytes()[:size])
    first = next(name for name, file in weight_map(folder).items() if file == LAST)
    said = from_hf()
    assert f"{LAST} is truncated or not safetensors" in said and f"tensor {first} and others are lost" in said


def test_a_file_with_more_behind_its_last_tensor(folder, from_hf):
    (folder / LAST).write_bytes((folder / LAST).read_bytes() + b"\0")
    assert f"{LAST} goes on after its last tensor" in from_hf()


def test_a_missing_file_names_a_tensor_of_it(folder, from_hf):
    (folder / LAST).unlink()
    first = next(name for name, file in weight_map(folder).items() if file == LAST)
    assert f"{LAST} with tensor {first}, which {INDEX} puts there is missing" in from_hf()


def test_a_missing_tensor_names_the_file_that_should_have_it(folder, from_hf):
    change_shard(folder, file_of(folder, UP), lambda tensors: {k: v for k, v in tensors.items() if k != UP})
    assert f"{file_of(folder, UP)} lacks tensor {UP}, which {INDEX} puts there" in from_hf()


def test_a_tensor_that_index_and_files_lack_names_the_file_of_its_neighbours(folder, from_hf):
    file = file_of(folder, UP)
    change_shard(folder, file, lambda tensors: {k: v for k, v in tensors.items() if k != UP})
    write_index(folder, lambda index: index.pop(UP))
    said = from_hf()
    assert f"tensor {UP} is missing: it should be in model-0000" in said and "(1 missing in all)" in said


def test_a_missing_tensor_of_a_single_file_names_it(folder, from_hf):
    tensors = tensors_of(SHAPE)
    del tensors[UP]
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert f"tensor {UP} is missing: it should be in model.safetensors" in from_hf()


def test_an_extra_tensor(folder, from_hf):
    extra = "model.layers.3.mlp.up_proj.weight"
    change_shard(folder, FIRST, lambda tensors: tensors | {extra: np.zeros(3, np.float32)})
    assert f"{FIRST} has tensor {extra}, which {INDEX} does not name" in from_hf()
    write_index(folder, lambda index: index.update({extra: FIRST}))
    assert f"{FIRST} has tensor {extra}, which the architecture in its config.json has not" in from_hf()


def test_a_misnamed_tensor_is_told_the_right_name(folder, from_hf):
    wrong = UP.replace("up_proj", "up_prj")
    file = file_of(folder, UP)
    change_shard(folder, file, lambda tensors: {wrong if k == UP else k: v for k, v in tensors.items()})
    said = from_hf()
    assert f"{file} lacks tensor {UP}" in said and f"has it the wrong name {wrong}?" in said
    write_index(folder, lambda index: index.update({wrong: index.pop(UP)}))
    said = from_hf()
    assert f"{file} has tensor {wrong}" in said and f"did you mean {UP}, which is missing?" in said


def test_a_misshapen_tensor(folder, from_hf):
    file = file_of(folder, UP)
    change_shard(folder, file, lambda tensors: tensors | {UP: tensors[UP].T.copy()})
    assert f"{file}: tensor {UP} has shape (24, 40); its config.json asks for (40, 24)" in from_hf()


def test_a_dtype_that_no_weights_have(folder, from_hf):
    file = file_of(folder, UP)
    change_shard(folder, file, lambda tensors: tensors | {UP: np.zeros((40, 24), np.int64)})
    assert f"{file}: tensor {UP} has dtype I64; bfloat16, float16, float32 are supported" in from_hf()


def test_layers_of_two_dtypes(folder, from_hf):
    file = file_of(folder, UP)
    change_shard(folder, file, lambda tensors: tensors | {UP: tensors[UP].astype(np.float32)})
    said = from_hf()
    assert f"{file}: tensor {UP} has dtype float32 and other layers have bfloat16" in said


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("bits", [0x7F81, 0xFFC0], ids=["signalling", "quiet and negative"])
def test_a_nan_is_named_and_found_in_any_block(dtype, bits, tmp_path, monkeypatch, capsys):
    folder = make_folder(tmp_path / "hf", SHAPE, tensors_of(SHAPE, dtype=np.float32), num_files=2)
    with np.errstate(invalid="ignore"):
        nan = np.array([bits << 16], np.uint32).view(np.float32)[0].astype(dtype)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 96)
    name = "model.layers.2.self_attn.k_proj.weight"
    for file in folder.glob("*.safetensors"):
        tensors = {k: np.ones(v.shape, dtype) for k, v in safetensors.numpy.load_file(file).items()}
        if name in tensors:
            tensors[name][17, 23] = nan
            holds = file
        safetensors.numpy.save_file(tensors, file)
    said = refused(monkeypatch, capsys, tmp_path, "from-hf", folder)
    assert f"{holds}: tensor {name} is NaN at [17, 23]" in said


def test_a_tensor_in_two_files(folder, from_hf):
    tensors = safetensors.numpy.load_file(folder / file_of(folder, UP))
    change_shard(folder, LAST, lambda others: others | {UP: tensors[UP]})
    said = from_hf()
    assert f"tensor {UP} is in two files" in said and file_of(folder, UP) in said and LAST in said


def test_a_tensor_twice_in_one_file(folder, from_hf):
    edit_header(
        folder / file_of(folder, UP), b"model.layers.1.mlp.gate_proj.weight", b"model.layers.0.mlp.gate_proj.weight"
    )
    said = from_hf()
    assert "model.layers.0.mlp.gate_proj.weight" in said and "safetensors" in said


def test_a_tensor_in_another_file_than_the_index_says(folder, from_hf):
    write_index(folder, lambda index: index.update({UP: LAST}))
    assert f"but {INDEX} says {LAST}" in from_hf()


def test_a_file_that_the_index_does_not_name(folder, from_hf):
    safetensors.numpy.save_file({"x": np.zeros(1)}, folder / "consolidated.safetensors")
    assert f"consolidated.safetensors is not named in {INDEX}" in from_hf()


def test_files_without_their_index(folder, from_hf):
    (folder / INDEX).unlink()
    assert f"{FIRST} needs an {INDEX}, which is not there" in from_hf()


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"x": "../other.safetensors"}}'])
def test_an_index_that_is_none(text, folder, from_hf):
    (folder / INDEX).write_text(text)
    assert INDEX in from_hf()


def test_offsets_that_overlap_name_the_tensor(folder, from_hf):
    path = folder / LAST
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = sorted(header.keys() - {"__metadata__"}, key=lambda one: header[one]["data_offsets"])[1]
    header[name]["data_offsets"] = [at - 2 for at in header[name]["data_offsets"]]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)[:size]
    path.write_bytes(data[:8] + text + data[8 + size :])
    said = from_hf()
    assert LAST in said and f"tensor {name}" in said


def test_a_tied_head_that_differs(tmp_path, monkeypatch, capsys):
    tensors = tensors_of(TIED)
    head = tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    head[96, 23] += 1
    folder = make_folder(tmp_path / "hf", TIED, tensors, num_files=2)
    said = refused(monkeypatch, capsys, tmp_path, "from-hf", folder)
    assert "model-00001-of-00002.safetensors: tensor lm_head.weight differs from model.embed_tokens.weight" in said


def test_a_folder_without_config_json(folder, from_hf):
    (folder / "config.json").unlink()
    assert "config.json" in from_hf()


@pytest.fixture
def ours(folder, tmp_path):
    convert.from_hf(folder, tmp_path / "ours", say=silent)
    return tmp_path / "ours"


@pytest.fixture
def to_hf(monkeypatch, capsys, tmp_path, ours):
    return lambda *arguments: refused(monkeypatch, capsys, tmp_path, "to-hf", ours, *arguments)


CHUNK = "params/layers.mlp.up_proj/c.1.0.0"


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, f"is damaged: tensor {UP} has not the CRC-32"),
        (lambda path: path.unlink(), f"with tensor {UP} (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), f"is truncated within tensor {UP}"),
    ],
    ids=["damaged", "missing", "truncated"],
)
def test_a_chunk_that_is_not_whole_is_named_with_its_tensor(damage, told, ours, to_hf):
    damage(ours / CHUNK)
    said = to_hf()
    assert told in said and str(ours / CHUNK) in said
    with pytest.raises(UserError, match=UP.replace(".", r"\.")):
        load_model(ours)


def test_an_array_described_otherwise_is_named(ours, to_hf):
    path = ours / "params/layers.mlp.up_proj/zarr.json"
    path.write_text(path.read_text().replace("bfloat16", "float16"))
    assert "zarr.json of parameter layers/mlp/up_proj has data_type float16, from-hf wrote bfloat16" in to_hf()
    path.unlink()
    assert "of parameter layers/mlp/up_proj (No such file" in to_hf()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "headers": {}, "crc32": {}}'])
def test_a_description_that_is_none(text, ours, to_hf):
    (ours / "hf_files.json").write_text(text)
    assert "hf_files.json" in to_hf()


def test_a_description_that_leads_out_of_its_folder(ours, to_hf):
    content = json.loads((ours / "hf_files.json").read_text())
    content["headers"] = {f"../{name}": text for name, text in content["headers"].items()}
    (ours / "hf_files.json").write_text(json.dumps(content))
    assert "names of files beside it were expected" in to_hf()


def test_a_config_json_of_another_model(ours, to_hf):
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert "mlp.down_proj.weight has shape (24, 40); its config.json asks for (24, 48)" in to_hf()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--max-shard-gb", "0"), "--max-shard-gb is 0.0; a number above 0 was expected"),
        (("--step", "7"), "is a converted folder and has no steps; leave out --step 7"),
        (("--step", "newest"), "got 'newest'; a number, latest or best was expected"),
        (("--dtype", "int8"), "invalid choice: 'int8'"),
    ],
)
def test_an_option_that_does_not_fit(arguments, told, to_hf):
    assert told in to_hf(*arguments)


def test_each_direction_is_told_from_the_other(folder, ours, tmp_path, monkeypatch, capsys):
    said = refused(monkeypatch, capsys, tmp_path, "from-hf", ours)
    assert "is converted already" in said
    said = refused(monkeypatch, capsys, tmp_path, "to-hf", folder)
    assert "is a Hugging Face directory already" in said


def test_a_file_named_as_ours(folder, from_hf):
    (folder / "params").mkdir()
    (folder / "params" / "x").write_text("")
    assert "params/x has a name that the converted folder needs" in from_hf()


def test_a_folder_that_holds_something_is_left_alone(folder, ours, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for arguments in (("from-hf", folder), ("to-hf", ours)):
        assert run_script(monkeypatch, *arguments, "--out", tmp_path / "full") == 2
        assert f"{tmp_path / 'full'} already holds something" in capsys.readouterr().err
    assert contents(tmp_path / "full") == {"notes.txt": b"mine"}


def test_a_folder_that_cannot_be_written(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert run_script(monkeypatch, "from-hf", folder, "--out", tmp_path / "file" / "out") == 2
    said = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'file' / 'out'}" in said and said.count("\n") == 1


def test_nothing_beside_the_source_is_touched(folder, ours, tmp_path):
    shutil.rmtree(ours)
    before = contents(tmp_path)
    change_shard(folder, FIRST, lambda tensors: {k: np.full_like(v, np.nan) for k, v in tensors.items()})
    after = contents(tmp_path)
    with pytest.raises(UserError, match="NaN"):
        convert.from_hf(folder, tmp_path / "ours", say=silent)
    assert contents(tmp_path) == after and after.keys() == before.keys()
