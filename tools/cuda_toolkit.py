"""Where the CUDA toolkit is, what it knows, and names as people write them: what the cuda_*.py tools share."""

import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
CUDA = ROOT / "csrc" / "cuda"
WANTED_ARCHITECTURES = ("80", "90a", "100")  # the last only if the toolkit knows it


@lru_cache(maxsize=1)
def cuda_home() -> Path | None:
    """The folder of the CUDA toolkit: CUDA_HOME, or the one that the nvcc on PATH says it belongs to."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home and Path(home, "bin", "nvcc").exists():
            return Path(home)
    nvcc = shutil.which("nvcc")
    if nvcc:  # it may be a wrapper elsewhere, so its own folder says nothing
        dry = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True)
        top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.M)
        if top:
            return Path(top[1]).resolve()
    usual = Path("/usr/local/cuda")
    return usual if (usual / "bin" / "nvcc").exists() else None


def cuda_version(home: Path) -> str:
    """The toolkit's version, as in "13.0"."""
    text = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else "unknown"


def architectures(home: Path) -> list[str]:
    known = subprocess.run([home / "bin" / "nvcc", "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    # An old nvcc lists no 90a, but compiles for it if it knows 90.
    return [a for a in WANTED_ARCHITECTURES if f"sm_{a.rstrip('a')}" in known]


def disassembler(home: Path) -> Path | None:
    """nvdisasm: the toolkit's, or that of the package nvidia-cuda-nvdisasm."""
    packages = (Path(p) / "nvidia" / "cu13" / "bin" for p in sys.path)
    return next((p / "nvdisasm" for p in (home / "bin", *packages) if (p / "nvdisasm").exists()), None)


def without_parameters(demangled: str) -> str:
    """ "void a::kernel<a::T, (a::E)0>(int)" as "kernel<T, E(0)>"."""
    depth = 0
    for i, c in enumerate(demangled):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0 and not demangled.startswith("(anonymous namespace)", i):
            demangled = demangled[:i]
            break
    text = demangled.removeprefix("void ").replace("(anonymous namespace)::", "")
    text = re.sub(r"\b\w+::", "", text)
    return re.sub(r"\((\w+)\)(\d+)", r"\1(\2)", text)


def short_names(mangled: list[str]) -> list[str]:
    """Kernels as they are written, as in "forward_reference<float>": without namespaces and parameters."""
    if not shutil.which("c++filt"):
        return mangled
    text = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True).stdout
    return [without_parameters(line) for line in text.splitlines()]
