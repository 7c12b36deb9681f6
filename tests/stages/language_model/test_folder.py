"""A model's folder: found, refused, and identified by its content."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from stages.errors import ModelError
from stages.language_model.folder import (
    context_length,
    end_of_turn_ids,
    hash_tokenizer,
    hash_weights,
    load_tokenizer,
    resolve_model,
    vocab_size,
)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_is_found_by_its_path(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder


def test_a_folder_is_found_by_a_path_that_looks_like_a_hub_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)

    assert resolve_model(f"{folder.parent.name}/copy").samefile(folder)


@pytest.mark.parametrize(
    ("removed", "found", "next_step"),
    [
        ("config.json", "{folder} holds no config.json.", "make model"),
        ("model.safetensors", "{folder} holds no *.safetensors weights.", "save_pretrained"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(folder: Path, removed: str, found: str, next_step: str) -> None:
    (folder / removed).unlink()

    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder))
    assert caught.value.found == found.format(folder=folder)
    assert next_step in caught.value.next_step


def test_pickled_weights_do_not_stand_in_for_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="holds no") as caught:
        resolve_model(str(folder))
    assert "may carry code" in caught.value.needed


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "../no/where", "/nowhere/at", "~/nowhere", "models/nowhere", "runs/nowhere", "nowhere", "a/b/c"],
)
def test_a_path_that_does_not_exist_never_asks_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*arguments: object, **options: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", ask)

    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert caught.value.found == f"There is no model folder {name}."
    assert "owner/model" in caught.value.needed
    assert "make model" in caught.value.next_step


def test_a_hub_name_that_cannot_be_had_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(ModelError, match="There is no model folder nobody/nothing, and the model hub") as caught:
        resolve_model("nobody/nothing")
    assert "\n" not in caught.value.found
    assert "make model" in caught.value.next_step


def test_the_hash_of_the_weights_does_not_depend_on_name_or_library(folder: Path, tiny_model: Path) -> None:
    before = hash_weights(tiny_model)
    assert hash_weights(folder) == before

    change_json(folder / "config.json", transformers_version="99", _name_or_path="elsewhere")
    (folder / "README.md").write_text("A card.")
    assert hash_weights(folder.rename(folder.with_name("renamed"))) == before


def test_one_changed_weight_is_another_model(folder: Path, tiny_model: Path) -> None:
    def save(change: float) -> str:
        weights = load_file(tiny_model / "model.safetensors")
        weights["model.norm.weight"][3] += change
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return hash_weights(folder)

    assert save(1e-6) != save(0.0) == hash_weights(tiny_model)


def test_a_file_of_weights_that_no_engine_loads_does_not_count(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "part.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = hash_weights(folder)

    shutil.copy(folder / "part.safetensors", folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")

    assert hash_weights(folder) == before


def test_another_architecture_over_the_same_weights_is_another_model(folder: Path, tiny_model: Path) -> None:
    change_json(folder / "config.json", rms_norm_eps=0.5)

    assert hash_weights(folder) != hash_weights(tiny_model)


def test_the_hash_of_a_tokenizer_survives_saving_and_use(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    before = hash_tokenizer(tokenizer)

    tokenizer(["a", "longer than that"], padding=True, truncation=True, max_length=3)
    assert hash_tokenizer(tokenizer) == before
    tokenizer.save_pretrained(tmp_path / "once")
    load_tokenizer(tmp_path / "once").save_pretrained(tmp_path / "twice")
    assert hash_tokenizer(load_tokenizer(tmp_path / "twice")) == before


def test_an_added_token_is_another_tokenizer(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    before = hash_tokenizer(tokenizer)
    tokenizer.add_tokens(["capital"])
    after = hash_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path)

    assert after != before
    assert hash_tokenizer(load_tokenizer(tmp_path)) == after


def swap_merges(state: dict[str, dict[str, list[object]]]) -> None:
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def drop_a_merge(state: dict[str, dict[str, list[object]]]) -> None:
    state["model"]["merges"].pop()


def swap_ids(state: dict[str, dict[str, dict[str, int]]]) -> None:
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def lower_case(state: dict[str, object]) -> None:
    state["normalizer"] = {"type": "Lowercase"}


@pytest.mark.parametrize("change", [swap_merges, drop_a_merge, swap_ids, lower_case])
def test_a_change_in_how_text_becomes_ids_is_another_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, change: Callable[..., None]
) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    change(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))

    assert hash_tokenizer(load_tokenizer(folder)) != hash_tokenizer(tokenizer)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(ModelError, match=f"{folder} holds no usable tokenizer: ") as caught:
        load_tokenizer(folder)
    assert "\n" not in caught.value.found


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"model_type": "llama", "vocab_size": 7, "max_position_embeddings": 9}, (7, 9)),
        # The families' own defaults, where the file is silent.
        ({"model_type": "gemma3", "text_config": {"vocab_size": 7}}, (7, 131072)),
        ({"model_type": "gpt2", "vocab_size": 7, "n_positions": 9}, (7, 9)),
        ({"model_type": "mpt", "vocab_size": 7, "max_seq_len": 9}, (7, 9)),
        ({"model_type": "falcon", "vocab_size": 7}, (7, 2048)),
        ({"model_type": "bloom", "vocab_size": 7}, (7, None)),
        ({"model_type": "mamba2", "vocab_size": 7}, (7, None)),
        ({"model_type": "xlnet", "vocab_size": 7}, (7, None)),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_sizes_are_those_of_the_config_as_transformers_reads_it(
    config: dict[str, object], sizes: tuple[int, int | None], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert (vocab_size(tmp_path), context_length(tmp_path)) == sizes


def test_a_config_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    path = folder / "config.json"
    before = hash_weights(folder)
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")

    assert resolve_model(str(folder)) == folder
    assert (vocab_size(folder), context_length(folder), hash_weights(folder)) == (512, 2048, before)
    assert len(load_tokenizer(folder)) == 512


def test_the_vocabulary_is_the_models_also_where_the_tokenizer_has_fewer_tokens(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    change_json(folder / "config.json", vocab_size=640)

    assert vocab_size(folder) == 640 > len(tokenizer)


@pytest.mark.parametrize("read", [vocab_size, context_length])
def test_a_config_that_names_no_family_is_refused(folder: Path, read: Callable[[Path], int | None]) -> None:
    (folder / "config.json").write_text("{}")

    with pytest.raises(ModelError, match=r"transformers cannot make out what .* model_type"):
        read(folder)


@pytest.mark.parametrize("length", [0, -5])
def test_a_model_that_holds_no_token_is_refused(folder: Path, length: int) -> None:
    change_json(folder / "config.json", max_position_embeddings=length)

    with pytest.raises(ModelError, match=f"says that the model holds {length} tokens"):
        context_length(folder)


@pytest.mark.parametrize("read", [vocab_size, context_length, hash_weights])
def test_a_config_that_was_cut_off_is_named(folder: Path, read: Callable[[Path], object]) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:100])

    with pytest.raises(ModelError, match=re.escape(f"{path} is not JSON")):
        read(folder)


@pytest.mark.parametrize(("declared", "expected"), [(5, [2, 5]), ([9, 5, 2], [2, 5, 9]), ([], [2]), (None, [2])])
def test_an_answer_ends_at_every_declared_token_and_at_the_tokenizers(
    folder: Path, tokenizer: PreTrainedTokenizerBase, declared: object, expected: list[int]
) -> None:
    change_json(folder / "generation_config.json", eos_token_id=declared)

    assert end_of_turn_ids(folder, tokenizer) == expected


def test_without_a_generation_config_the_configs_end_of_turn_counts_as_it_does_in_transformers(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (folder / "generation_config.json").unlink()
    change_json(folder / "config.json", eos_token_id=[7, 9])
    assert end_of_turn_ids(folder, tokenizer) == [2, 7, 9]

    change_json(folder / "config.json", eos_token_id=None)
    assert end_of_turn_ids(folder, tokenizer) == [2]
    tokenizer.eos_token = None
    assert end_of_turn_ids(folder, tokenizer) == []


@pytest.mark.parametrize("declared", ["2", [2, "3"], {"id": 2}, True, 2.0])
def test_an_end_of_turn_that_is_no_id_is_refused_at_once(folder: Path, declared: object) -> None:
    change_json(folder / "generation_config.json", eos_token_id=declared)

    with pytest.raises(ModelError, match="neither an id nor a list of ids"):
        resolve_model(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_generation_settings_that_are_no_object_are_refused_at_once(folder: Path, text: str) -> None:
    (folder / "generation_config.json").write_text(text)

    with pytest.raises(ModelError, match=r"generation_config\.json (is not JSON|holds no JSON object)"):
        resolve_model(str(folder))


def without_model(state: dict[str, object]) -> None:
    del state["model"]


def with_a_bad_pattern(state: dict[str, object]) -> None:
    state["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "("},
        "behavior": "Isolated",
        "invert": False,
    }


def with_a_normaliser_that_panics(state: dict[str, object]) -> None:
    state["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize("change", [without_model, with_a_bad_pattern, with_a_normaliser_that_panics])
def test_a_tokenizer_that_the_library_cannot_read_is_one_message(
    folder: Path, change: Callable[[dict[str, object]], None]
) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    change(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))

    with pytest.raises(ModelError, match="holds no usable tokenizer: ") as caught:
        load_tokenizer(folder)
    assert "\n" not in caught.value.found


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5"])
def test_a_damaged_file_of_the_tokenizer_is_one_message(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)

    with pytest.raises(ModelError, match="holds no usable tokenizer: ") as caught:
        load_tokenizer(folder)
    assert "\n" not in caught.value.found


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(folder: Path) -> None:
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]},
    )
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')\n")

    with pytest.raises(ModelError, match=r"holds no usable tokenizer: .*custom code"):
        load_tokenizer(folder)


def test_a_token_without_an_embedding_is_refused(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["capital"])
    tokenizer.save_pretrained(folder)

    with pytest.raises(ModelError, match="has ids up to 512, the model has 512 rows"):
        load_tokenizer(folder)


def test_the_placeholder_of_an_image_needs_no_embedding(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="has ids up to 512"):
        load_tokenizer(folder)
    # As Gemma 3 names its own.
    change_json(folder / "tokenizer_config.json", extra_special_tokens={"image_token": "<image>"})

    assert load_tokenizer(folder).convert_tokens_to_ids("<image>") == 512


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("what", ["pipe", "device", "link to nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path, name: str, what: str) -> None:
    (folder / name).unlink()
    if what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if what == "device" else "nothing")

    with pytest.raises(ModelError, match=f"{name} is (no file, but|a link to)"):
        resolve_model(str(folder))


def test_the_folder_of_a_run_tells_where_its_model_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run/model")

    with pytest.raises(ModelError, match=rf"A run keeps its model .*{tmp_path}/run/model$"):
        resolve_model(str(tmp_path / "run"))


def test_a_tilde_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="Write the whole path"):
        resolve_model("~/no-such-model")
