"""What stands in the locks under requirements/ and in the files that they were made from."""

import re

from conftest import ROOT
from packaging.requirements import Requirement

REQUIREMENTS = ROOT / "requirements"
PROFILES = ("cpu", "cuda", "portable")


def pins(profile: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{profile}.txt").read_text(encoding="utf-8")
    return {
        name.lower(): version for name, version in re.findall(r"^([\w.\-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE)
    }


def lines_of(file: str) -> list[str]:
    lines = (REQUIREMENTS / file).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def wanted(file: str) -> list[Requirement]:
    asked: list[Requirement] = []
    for line in lines_of(file):
        asked += wanted(line.removeprefix("-r ").strip()) if line.startswith("-r ") else [Requirement(line)]
    return asked


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
