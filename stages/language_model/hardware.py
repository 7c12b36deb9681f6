"""What this machine is, in words and in numbers. Asks the operating system and torch, and changes nothing."""

import os
import platform


def cuda_is_available() -> bool:
    """Whether torch sees a CUDA GPU."""
    import torch

    return bool(torch.cuda.is_available())


def gpu_count() -> int:
    """CUDA GPUs that torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def core_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware() -> str:
    """One line: GPUs and their name, or the CPU's name and cores."""
    if count := gpu_count():
        import torch

        return f"{count} × {torch.cuda.get_device_name(0)}"
    return f"{core_count()} cores of {_cpu_name()}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
