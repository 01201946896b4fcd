"""What is installed and what it will use: the text to paste into an issue."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from . import _C
from .algorithms import PRIMITIVES, algorithms

# What changes which kernels run, on what, and on how many threads.
_ENVIRONMENT = (
    *("CONVX_", "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "CUDA_", "NVIDIA_TF32", "PYTORCH_"),
    *("TORCH_", "LD_PRELOAD", "MALLOC_"),
)


def _commit() -> str:
    """Of a checkout that is used in place; nothing is known of an installed package's."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "unknown (not a checkout)"
    try:
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown (git can't tell)"


def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo, empty on systems that have none."""
    try:
        with open("/proc/cpuinfo") as f:
            return next((line.partition(":")[2].strip() for line in f if line.split("\t")[0].strip() == field), "")
    except OSError:
        return ""


def _processor() -> str:
    """Its name, and which of those of this name it is: on virtual machines it may be no more than 'AMD EPYC'."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")  # x86's only
    which = f", family {family} model {model}" if family and model else ""
    return f"{_cpuinfo('model name') or platform.processor() or platform.machine()}{which}, {cores} usable cores"


def _processor_flags() -> str:
    """Those that say which vectors and matrix units there are, whoever uses them: torch may have others than convx."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()  # x86 or Arm
    telling = ("avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")
    return ", ".join(sorted(f for f in flags if f.startswith(telling))) or "unknown"


def _threading() -> str:
    """What torch runs its threads by, from its own report."""
    lines = torch.__config__.parallel_info().splitlines()
    backend = next((line.partition(":")[2].strip() for line in lines if "parallel backend" in line), "unknown")
    return f"{backend}, {torch.get_num_interop_threads()} threads between operators"


def _libraries() -> str:
    """What torch computes convolutions with on this machine."""
    found = []
    if torch.backends.mkldnn.is_available():
        found.append("oneDNN")
    if torch.backends.mkl.is_available():
        found.append("MKL")
    if torch.backends.cudnn.is_available():
        found.append(f"cuDNN {torch.backends.cudnn.version()}")
    return ", ".join(found) or "none"


def _cuda_kernels() -> str:
    build = _C.build_info()
    return f"yes, for {build['cuda_archs']}" if build["cuda"] else "no"


def _gpus() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPUs", "none")]
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [
        (f"GPU {i}", f"{p.name}, sm_{p.major}{p.minor}, {p.multi_processor_count} SMs, {p.total_memory >> 20} MiB")
        for i, p in enumerate(found)
    ]


def _forced() -> str:
    forced = {p: _C.forced_algorithm(p) for p in PRIMITIVES}
    return ", ".join(f"{p}: {name}" for p, name in forced.items() if name) or "none"


def show_config() -> str:
    """A report of the versions, the compiler, the processor, the GPUs and the algorithms, one fact a line."""
    from . import __version__

    build = _C.build_info()
    facts = [
        ("convx", __version__),
        ("commit", _commit()),
        ("installed in", str(Path(__file__).parent)),
        ("torch", torch.__version__),
        ("torch's commit", str(torch.version.git_version)),
        ("torch's convolutions", _libraries()),
        ("python", f"{sys.version.split()[0]} on {platform.platform()}"),
        ("compiler", f"{build['compiler']}, C++ {build['cxx_standard']}"),
        ("processor", _processor()),
        ("instruction sets found", ", ".join(isa for isa in _C.cpu_isas() if not isa.endswith("_twin"))),
        ("instruction set used", _C.cpu_isa()),
        ("processor's flags", _processor_flags()),
        ("threads", str(torch.get_num_threads())),
        ("threading", _threading()),
        ("CUDA kernels built", _cuda_kernels()),
        ("CUDA of torch", torch.version.cuda or "none"),
        *_gpus(),
        ("algorithms forced", _forced()),
    ]
    for device in ("cpu", "cuda"):
        for primitive in PRIMITIVES:
            rows = algorithms(primitive, device)
            if rows:
                facts.append((f"{device} {primitive}", ", ".join(a.name for a in rows)))
    facts += sorted((k, v) for k, v in os.environ.items() if k.startswith(_ENVIRONMENT))
    width = max(24, *(len(name) + 2 for name, _ in facts))
    return "\n".join(f"{name:<{width}}{fact}" for name, fact in facts)
