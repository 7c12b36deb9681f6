"""Which files are the model: those in the folder that index and both engines agree on; every other folder is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.errors import ModelError
from stages.language_model.weights import INDEX, SINGLE, tensor_heads, weight_files

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(2, 3, dtype=torch.bfloat16) for name in names}, path, {"format": "pt"})


def write_index(folder: Path, mapping: object, **others: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": mapping} | others))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their index."""
    model = tmp_path / "model"
    save(model / ONE, "a", "b")
    save(model / TWO, "c")
    write_index(model, {"a": ONE, "b": ONE, "c": TWO})
    return model


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        tensor_heads(folder)
    assert "\n" not in caught.value.found
    return caught.value


def test_every_tensor_is_found_with_its_file_dtype_and_shape(folder: Path) -> None:
    assert weight_files(folder) == {"a": folder / ONE, "b": folder / ONE, "c": folder / TWO}
    assert {(head.dtype, head.shape) for head in tensor_heads(folder).values()} == {("BF16", (2, 3))}


def test_files_may_be_links_to_a_hubs_blobs(folder: Path, tmp_path: Path) -> None:
    for name in (ONE, TWO, INDEX):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(Path("..") / name)

    assert weight_files(folder) == {"a": folder / ONE, "b": folder / ONE, "c": folder / TWO}


@pytest.mark.parametrize(
    "name",
    [
        "../other/weights.safetensors",
        "sub/weights.safetensors",
        "./weights.safetensors",
        "sub\\weights.safetensors",
        "",
        "..",
        "weights.bin",
        "weights.safetensors/",
        None,
        5,
        ["weights.safetensors"],
    ],
)
def test_an_index_names_plain_files_of_its_own_folder(folder: Path, name: object) -> None:
    for place in ("../other/weights.safetensors", "sub/weights.safetensors", "weights.safetensors"):
        save(folder / place, "a", "b")
    write_index(folder, {"a": name, "b": ONE, "c": TWO})

    assert "no name of a safetensors file" in refusal(folder).found


def test_an_index_with_an_absolute_path_is_refused(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "weights.safetensors", "a")
    write_index(folder, {"a": str(tmp_path / "weights.safetensors"), "b": ONE, "c": TWO})

    assert "no name of a safetensors file" in refusal(folder).found


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 5, "metadata": {}}', "{", '{"weight_map": {"a": "b"}}']
)
def test_an_index_that_is_none_is_refused(folder: Path, index: str) -> None:
    (folder / INDEX).write_text(index)

    assert INDEX in refusal(folder).found


def test_a_tensor_that_the_index_promises_must_be_there(folder: Path) -> None:
    save(folder / ONE, "a")

    assert f"says that b is in {ONE}, which does not hold it" in refusal(folder).found


def test_a_tensor_that_the_index_does_not_name_is_refused(folder: Path) -> None:
    save(folder / TWO, "c", "stray")

    assert f"{TWO} holds the tensor stray, and {INDEX} does not name it" in refusal(folder).found


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    save(folder / TWO, "c", "a")

    assert f"{TWO} holds the tensor a, and {INDEX} names {ONE} for it" in refusal(folder).found


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    (folder / TWO).unlink()

    assert f"{TWO} is no whole safetensors file" in refusal(folder).found


def test_a_whole_file_beside_an_index_of_others_is_ambiguous(folder: Path) -> None:
    save(folder / SINGLE, "a", "b", "c")

    assert f"holds both {SINGLE} and" in refusal(folder).found

    write_index(folder, dict.fromkeys("abc", SINGLE))
    assert set(weight_files(folder).values()) == {folder / SINGLE}


def test_with_an_index_other_files_are_no_part_of_the_model(folder: Path) -> None:
    before = weight_files(folder)
    save(folder / "consolidated.safetensors", "a", "b", "c")

    assert weight_files(folder) == before


def test_without_an_index_a_second_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path / SINGLE, "a")
    save(tmp_path / "._model.safetensors", "hidden from both engines")
    assert weight_files(tmp_path) == {"a": tmp_path / SINGLE}

    save(tmp_path / "more.safetensors", "b")
    assert f"holds more.safetensors beside {SINGLE}" in refusal(tmp_path).found


def test_a_safetensors_file_of_another_name_does_not_stand_in(tmp_path: Path) -> None:
    save(tmp_path / "decoy.safetensors", "a")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")

    assert "holds neither" in refusal(tmp_path).found


@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_is_refused(tmp_path: Path, has_config: bool) -> None:
    save(tmp_path / SINGLE, "a")
    (tmp_path / "adapter_config.json").write_text("{}")
    if has_config:
        (tmp_path / "config.json").write_text("{}")

    error = refusal(tmp_path)
    assert ("an adapter beside the weights" if has_config else "an adapter, no model") in error.found
    assert "merge_and_unload" in error.next_step


def cut(content: bytes) -> bytes:
    return content[:-3]


def promise_a_long_head(content: bytes) -> bytes:
    return (1 << 40).to_bytes(8, "little") + content[8:]


def empty(content: bytes) -> bytes:
    return b""


def spoil_the_head(content: bytes) -> bytes:
    return content[:8] + b"x" * (len(content) - 8)


@pytest.mark.parametrize("damage", [cut, promise_a_long_head, empty, spoil_the_head])
def test_a_damaged_file_is_named(folder: Path, damage: object) -> None:
    assert callable(damage)
    (folder / TWO).write_bytes(damage((folder / TWO).read_bytes()))

    assert f"{TWO} is no whole safetensors file" in refusal(folder).found


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / SINGLE).mkdir()

    assert "holds neither" in refusal(tmp_path).found


def test_weights_without_a_tensor_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / SINGLE)
    assert load_file(tmp_path / SINGLE) == {}

    assert "hold no tensor" in refusal(tmp_path).found
