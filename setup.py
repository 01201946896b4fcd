"""Builds convx._C: the CPU kernels always, the CUDA kernels where torch has CUDA and nvcc is found.

CONVX_CUDA=0/1 overrides the second decision. Which GPU architectures are built follows TORCH_CUDA_ARCH_LIST, as in
every torch extension. Nothing here sets -march=native or fast-math: one binary runs on every machine of its kind, and
means IEEE arithmetic. The CPU's sources are C++20, which torch asks for itself from 2.12 on.
"""

import os
import sys
from pathlib import Path

from setuptools import setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
# -Wno-psabi: the twins of AVX-512 pass vectors that AVX2 has no register for, but never to another file.
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas", "-Wno-psabi"]


def decide_cuda() -> tuple[bool, str]:
    """Whether to build the CUDA kernels, and why."""
    import torch

    asked = os.environ.get("CONVX_CUDA", "").strip()
    if asked not in ("", "0", "1"):
        sys.exit(f"convx: expected CONVX_CUDA to be 0 or 1, but got {asked!r}")
    if asked == "0":
        return False, "CONVX_CUDA=0"
    # An nvcc outside the toolkit (a wrapper script) leads torch to a CUDA_HOME without headers.
    home = Path(cpp_extension.CUDA_HOME or "/nonexistent")
    nvcc = home / "bin" / "nvcc" if (home / "include" / "cuda_runtime.h").exists() else None
    if asked == "1":
        if torch.version.cuda is None or not (nvcc and nvcc.exists()):
            sys.exit(
                "convx: CONVX_CUDA=1 needs a CUDA build of torch and nvcc, "
                f"but torch.version.cuda is {torch.version.cuda} and nvcc is {nvcc or 'not found'}"
            )
        return True, "CONVX_CUDA=1"
    if torch.version.cuda is None:
        return False, "this torch is built without CUDA"
    if not (nvcc and nvcc.exists()):
        return False, f"no CUDA toolkit in {cpp_extension.CUDA_HOME} (set CUDA_HOME)"
    if not torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        return False, "no GPU here and no TORCH_CUDA_ARCH_LIST"
    return True, f"torch has CUDA {torch.version.cuda} and nvcc is {nvcc}"


def ask_for_wgmma() -> None:
    """For a Hopper GPU that is here torch builds for 9.0, which lacks an instruction of that very GPU."""
    import torch

    if "TORCH_CUDA_ARCH_LIST" not in os.environ and torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        if (9, 0) in found:
            archs = (f"{major}.{minor}" + "a" * ((major, minor) == (9, 0)) for major, minor in sorted(found))
            os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(archs)


def sources(*folders: str, suffixes: tuple[str, ...]) -> list[str]:
    found = (p for folder in folders for p in (ROOT / folder).glob("*") if p.suffix in suffixes)
    return sorted(str(p.relative_to(ROOT)) for p in found)


def extension():
    with_cuda, reason = decide_cuda()
    print(f"convx: building {'CPU and CUDA' if with_cuda else 'CPU only'} ({reason})", flush=True)
    files = sources("csrc", "csrc/cpu", suffixes=(".cpp",))
    macros, flags = [], {"cxx": ["-std=c++20", "-O3", "-fopenmp", f"-idirafter{ROOT / 'csrc/absent'}", *WARNINGS]}
    if with_cuda:
        ask_for_wgmma()
        files += sources("csrc/cuda", suffixes=(".cu", ".cpp"))
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "the GPUs of the machine that built it")
        macros = [("CONVX_WITH_CUDA", None), ("CONVX_CUDA_ARCHS", f'"{archs}"')]
        flags["nvcc"] = ["-O3", "-lineinfo"]
    else:
        files.remove("csrc/bindings_cuda.cpp")
    kind = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    return kind("convx._C", files, define_macros=macros, extra_compile_args=flags, extra_link_args=["-fopenmp"])


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)},
)
