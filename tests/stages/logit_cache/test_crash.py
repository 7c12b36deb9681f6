"""Whatever the disk does, at any step: whole shards stay, nothing half-written counts, the rerun gives the same cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# Three shards and a manifest take about 180 changes of the disk; far fewer would mean that faults are no longer met.
FEWEST_STEPS = 100


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "cut", "full"])
def test_a_fault_at_any_change_of_the_disk_loses_no_whole_shard_and_leaves_no_half_cache(
    mode: str, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("faulty_disk.py")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}

    ended = subprocess.run(
        [sys.executable, script, mode, tmp_path], env=environment, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout) > FEWEST_STEPS
