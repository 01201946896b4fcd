"""What is installed and what it will use: the text to paste into an issue."""

from __future__ import annotations

import os
import platform
import sys

import torch

from . import _C
from .algorithms import PRIMITIVES, algorithms


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return ", ".join(f"{p.name} (sm_{p.major}{p.minor}, {p.multi_processor_count} SMs)" for p in names)


def show_config() -> str:
    """A report of the versions, the compiler, the processor, the GPUs and the algorithms, one fact a line."""
    from . import __version__

    build = _C.build_info()
    cuda = f"yes, for {build['cuda_archs']}" if build["cuda"] else "no"
    facts = {
        "convx": __version__,
        "torch": torch.__version__,
        "python": f"{sys.version.split()[0]} on {platform.platform()}",
        "compiler": f"{build['compiler']}, C++ {build['cxx_standard']}",
        "processor": _processor(),
        "instruction sets found": ", ".join(_C.cpu_isas()),
        "instruction set used": _C.cpu_isa(),
        "threads": torch.get_num_threads(),
        "CUDA kernels built": cuda,
        "CUDA of torch": torch.version.cuda or "none",
        "GPUs": _gpus(),
    }
    facts |= {k: v for k, v in os.environ.items() if k.startswith("CONVX_")}
    lines = [f"{k:<24}{v}" for k, v in facts.items()]
    for device in ("cpu", "cuda"):
        for primitive in PRIMITIVES:
            rows = algorithms(primitive, device)
            if rows:
                lines.append(f"{device + ' ' + primitive:<24}{', '.join(a.name for a in rows)}")
    return "\n".join(lines)
