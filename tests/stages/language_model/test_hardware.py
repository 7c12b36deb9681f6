"""What this machine is, against what the system and torch say of it."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from stages.language_model.hardware import core_count, cuda_is_available, describe_hardware, gpu_count

CODE = (
    "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); "
    "from stages.language_model.hardware import core_count; print(core_count())"
)


def test_gpus_are_counted_as_torch_counts_them() -> None:
    assert gpu_count() == torch.cuda.device_count()
    assert cuda_is_available() == (gpu_count() > 0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores can be taken from a process on Linux only")
def test_a_process_bound_to_one_core_counts_one() -> None:
    bound = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)

    assert bound.stdout.strip() == "1"
    assert core_count() == len(os.sched_getaffinity(0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the line is about the GPU")
def test_a_machine_without_a_gpu_is_its_cores_and_their_name() -> None:
    count, _, name = describe_hardware().partition(" cores of ")

    assert count == str(core_count())
    assert name
    assert "\n" not in name
