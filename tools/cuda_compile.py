"""Compiles the CUDA sources without a GPU: every csrc/cuda/*.cu with nvcc for each architecture, and the CUDA binding.

    python tools/cuda_compile.py [--arch 80 --arch 90a]

Prints the registers of each kernel, and fails if one spills them to memory: a kernel that spills has outgrown its tile,
and is slow in a way that no test of its results can show. The binding is compiled only as far as its syntax and types,
against whatever torch runs this script, a CPU build of it included. Without nvcc there is nothing to do but say so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
ARCHITECTURES = ("80", "90a")

# What torch's own build writes into its headers; a CPU build leaves it out, and c10/cuda includes it.
CUDA_MACROS = "c10/cuda/impl/cuda_cmake_macros.h"


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


def parse_resources(ptxas: str) -> list[tuple[str, str, int, int]]:
    """(mangled kernel, architecture, registers, bytes spilled) of each kernel in the output of ptxas -v."""
    entry = re.compile(
        r"Compiling entry function '(\w+)' for '(\w+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.S,
    )
    return [(m[1], m[2], int(m[5]), int(m[3]) + int(m[4])) for m in entry.finditer(ptxas)]


def short_names(mangled: list[str]) -> list[str]:
    """Kernels as they are written, as in forward_reference<float>: without namespaces and parameters."""
    if not shutil.which("c++filt"):
        return mangled
    text = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True).stdout
    return [re.sub(r"\w+::|^void |\(.*$", "", line) for line in text.splitlines()]


def compile_kernels(home: Path, source: Path, architectures: list[str]) -> bool:
    gencode = [f for a in architectures for f in ("-gencode", f"arch=compute_{a},code=sm_{a}")]
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        command = [home / "bin" / "nvcc", "-std=c++17", "-O3", "-lineinfo", *gencode, "-Xptxas", "-v"]
        run = subprocess.run([*command, "-c", source, "-o", Path(folder, "kernels.o")], capture_output=True, text=True)
    print(f"{os.path.relpath(source, ROOT)}: ", end="")
    if run.returncode:
        print(f"nvcc failed:\n{run.stdout}{run.stderr}")
        return False
    rows = parse_resources(run.stdout + run.stderr)
    if not rows:
        print(f"nvcc compiled no kernel:\n{run.stdout}{run.stderr}")
        return False
    names = short_names([row[0] for row in rows])
    print(f"{len(set(names))} kernels for {', '.join('sm_' + a for a in architectures)}", end="")
    print(f" in {time.time() - started:.0f} s")

    registers = defaultdict(lambda: defaultdict(dict))  # kernel -> architecture -> type -> registers
    for name, (_, architecture, count, _) in zip(names, rows, strict=True):
        kernel, _, type_name = name.partition("<")
        registers[kernel][architecture][type_name.rstrip(">")] = count
    for kernel, by_architecture in sorted(registers.items()):
        print(f"  {kernel}, registers:")
        for architecture, by_type in by_architecture.items():
            print(f"    {architecture:7}", ", ".join(f"{t or 'all'} {n}" for t, n in sorted(by_type.items())))
    spilled = [f"  {name} for {row[1]} spills {row[3]} bytes" for name, row in zip(names, rows, strict=True) if row[3]]
    print("\n".join(spilled) if spilled else "  no spills")
    return not spilled


def check_binding(home: Path) -> bool:
    source = ROOT / "csrc" / "bindings_cuda.cpp"
    name = source.relative_to(ROOT)
    try:
        from torch.utils.cpp_extension import include_paths
    except ImportError:
        print(f"{name}: skipped, no torch in {sys.executable}")
        return True
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        print(f"{name}: skipped, no C++ compiler (apt install g++)")
        return True
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        macros = Path(folder, CUDA_MACROS)
        paths = include_paths()
        if not any(Path(p, CUDA_MACROS).exists() for p in paths):
            macros.parent.mkdir(parents=True)
            macros.write_text("#define C10_CUDA_BUILD_SHARED_LIBS\n")
        system = [f for p in (*paths, folder, home / "include") for f in ("-isystem", str(p))]
        # C++20 is what torch's headers ask for; setup.py leaves it to torch to say so.
        command = [*compiler.split(), "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-parameter"]
        run = subprocess.run([*command, *system, str(source)], capture_output=True, text=True)
    if run.returncode:
        print(f"{name}: the compiler failed:\n{run.stderr}")
        return False
    print(f"{name}: its syntax and types are right in {time.time() - started:.0f} s")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the CUDA sources without a GPU.")
    parser.add_argument("--arch", action="append", help=f"such as 80; by default {', '.join(ARCHITECTURES)}")
    architectures = parser.parse_args().arch or list(ARCHITECTURES)
    home = cuda_home()
    if home is None:
        print("cuda-compile: skipped, no nvcc found (put it on PATH or set CUDA_HOME)")
        return 0
    print(f"nvcc {cuda_version(home)} in {home}")
    good = [compile_kernels(home, s, architectures) for s in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]
    good.append(check_binding(home))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
