"""Compiles the CUDA sources without a GPU, every csrc/cuda/*.cu for each architecture and the CUDA binding, and checks
the machine code.

    python tools/cuda_compile.py [--arch 80 --arch 90a]

Prints the registers of each kernel. Fails if one spills many of them to memory, or uses memory of its own in a main
loop: such a kernel has outgrown its tile, and is slow in a way that no test of its results can show. Fails if an
instruction is missing that the kernel's file promises (machine_code.py). The binding is compiled only as far as its
syntax and types, against whatever torch runs this script, a CPU build of it included. Without nvcc there is nothing to
do but say so.
What is compiled is remembered in build/cuda/ until its sources change.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import machine_code
from cuda_toolkit import CUDA, ROOT, architectures, cuda_home, cuda_version, disassembler, short_names
from machine_code import Code

CACHE = ROOT / "build" / "cuda"
# What a kernel may spill: before and after a main loop, where it costs next to nothing. In bytes stored and loaded.
SPILLED_OUTSIDE_LOOPS = 128
FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v"]

# What torch's own build writes into its headers; a CPU build leaves it out, and c10/cuda includes it.
CUDA_MACROS = "c10/cuda/impl/cuda_cmake_macros.h"


class Kernel(NamedTuple):
    """What the compiler made of one kernel for one architecture."""

    symbol: str  # mangled
    architecture: str  # as in 90a
    registers: int
    spilled_bytes: int
    code: Code | None  # None without a disassembler


class CompileError(Exception):
    """With the compiler's output."""


def parse_resources(ptxas: str) -> list[tuple[str, str, int, int]]:
    """(mangled kernel, architecture, registers, bytes spilled) of each kernel in the output of ptxas -v."""
    entry = re.compile(
        r"Compiling entry function '(\w+)' for 'sm_(\w+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.S,
    )
    return [(m[1], m[2], int(m[5]), int(m[3]) + int(m[4])) for m in entry.finditer(ptxas)]


def with_includes(source: Path) -> list[Path]:
    """The file and all of this repository that it includes."""
    found, open_ends = {source.resolve()}, [source.resolve()]
    while open_ends:
        file = open_ends.pop()
        for name in re.findall(r'^#include "(.+)"', file.read_text(), re.M):
            included = (file.parent / name).resolve()
            if included.exists() and included not in found:
                found.add(included)
                open_ends.append(included)
    return sorted(found)


def compile_source(home: Path, source: Path, archs: list[str]) -> list[Kernel]:
    """Each kernel of a .cu file for each architecture."""
    nvdisasm = disassembler(home)
    gencode = [f for a in archs for f in ("-gencode", f"arch=compute_{a},code=sm_{a}")]
    command = [str(home / "bin" / "nvcc"), *FLAGS, *gencode, "-c", str(source)]
    key = hashlib.sha256(f"{command} {cuda_version(home)} {nvdisasm}".encode())
    for file in (*with_includes(source), Path(__file__), Path(machine_code.__file__)):
        key.update(file.read_bytes())
    remembered = CACHE / f"{source.stem}-{key.hexdigest()[:16]}.json"
    if remembered.exists():
        rows = json.loads(remembered.read_text())
        return [Kernel(*row, Code(*code) if code else None) for *row, code in rows]
    with tempfile.TemporaryDirectory() as folder:
        keep = ["-keep", "-keep-dir", folder, "-o", str(Path(folder, "kernels.o"))]
        run = subprocess.run([*command, *keep], capture_output=True, text=True)
        if run.returncode:
            raise CompileError(f"nvcc failed:\n{run.stdout}{run.stderr}")
        codes = {}  # (architecture, kernel)
        for cubin in Path(folder).glob("*.cubin") if nvdisasm else ():
            named = re.search(r"\.(?:compute|sm)_(\w+)$", cubin.stem)  # not for a single architecture
            arch = named[1] if named else archs[0]
            codes |= {(arch, k): code for k, code in machine_code.disassemble(nvdisasm, cubin).items()}
    kernels = [
        Kernel(symbol, arch, registers, spilled, codes.get((arch, symbol)))
        for symbol, arch, registers, spilled in parse_resources(run.stdout + run.stderr)
    ]
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{source.stem}-{16 * '?'}.json"):
        old.unlink(missing_ok=True)
    remembered.write_text(json.dumps(kernels))
    return kernels


def compile_sources(home: Path, archs: list[str]) -> dict[Path, list[Kernel] | CompileError]:
    """All of csrc/cuda, several at a time."""

    def compiled(source):
        try:
            return compile_source(home, source, archs)
        except CompileError as error:
            return error

    sources = sorted(CUDA.glob("*.cu"))
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
        return dict(zip(sources, pool.map(compiled, sources), strict=True))


def print_registers(kernels: list[Kernel], names: list[str]) -> None:
    registers = defaultdict(lambda: defaultdict(dict))  # kernel -> architecture -> types -> registers
    for kernel, name in zip(kernels, names, strict=True):
        plain, _, types = name.partition("<")
        registers[plain][kernel.architecture][types.removesuffix(">")] = kernel.registers
    for plain, by_architecture in sorted(registers.items()):
        print(f"  {plain}, registers:")
        for architecture, by_types in by_architecture.items():
            counts = defaultdict(list)
            for types, n in sorted(by_types.items()):
                counts[n].append(types or "all")
            text = "; ".join(
                f"{n}: {', '.join(types) if len(types) < 5 else f'{len(types)} kinds'}"
                for n, types in sorted(counts.items())
            )
            print(f"    sm_{architecture:5} {text}")


def check_kernels(source: Path, kernels: list[Kernel] | CompileError, expected=()) -> bool:
    """Prints what has been compiled, and what is wrong with it."""
    print(f"{os.path.relpath(source, ROOT)}: ", end="")
    if isinstance(kernels, CompileError):
        print(kernels)
        return False
    if not kernels:
        print("nvcc compiled no kernel")
        return False
    names = short_names([k.symbol for k in kernels])
    print(f"{len(set(names))} kernels")
    print_registers(kernels, names)
    wrong = []
    for k, n in zip(kernels, names, strict=True):
        text = f"{n} for sm_{k.architecture} spills {k.spilled_bytes} bytes"
        if k.spilled_bytes > SPILLED_OUTSIDE_LOOPS:
            wrong.append(text)
        elif k.spilled_bytes:
            print(f"  {text}, {'not in its main loops' if k.code else 'where is not known without nvdisasm'}")
    for kernel, name in zip(kernels, names, strict=True):
        if kernel.code:
            wrong += machine_code.problems(name, kernel.architecture, kernel.code, expected)
    print("\n".join(f"  {w}" for w in wrong) if wrong else "  no spills in main loops")
    return not wrong


def check_expectations(compiled: dict[Path, list[Kernel]], expected) -> bool:
    """Prints the expectations that are of no kernel."""
    names = {n for kernels in compiled.values() for n in short_names([k.symbol for k in kernels])}
    idle = [e for e in expected if not any(re.fullmatch(e.name, n) for n in names)]
    for e in idle:
        print(f"{e.source} expects machine code of {e.name}, and there is no such kernel")
    if not idle:
        print(f"machine code: {len(expected)} expectations, all met by the kernels that they name")
    return not idle


def compile_kernels(home: Path, source: Path, archs: list[str]) -> bool:
    """One file; what it expects is read beside it."""
    try:
        kernels = compile_source(home, source, archs)
    except CompileError as error:
        kernels = error
    return check_kernels(source, kernels, machine_code.expectations(source.parent))


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
    parser.add_argument("--arch", action="append", help="such as 80; by default 80, 90a and, if nvcc knows it, 100")
    asked = parser.parse_args().arch
    home = cuda_home()
    if home is None:
        print("cuda-compile: skipped, no nvcc found (put it on PATH or set CUDA_HOME)")
        return 0
    started = time.time()
    archs = asked or architectures(home)
    print(f"nvcc {cuda_version(home)} in {home}, for {', '.join('sm_' + a for a in archs)}")
    if not disassembler(home):
        print("machine code: not looked at, no nvdisasm found (pip install nvidia-cuda-nvdisasm)")
    compiled = compile_sources(home, archs)
    expected = machine_code.expectations(CUDA)
    good = [check_kernels(source, kernels, expected) for source, kernels in compiled.items()]
    good.append(all(good) and check_expectations(compiled, expected))
    good.append(check_binding(home))
    print(f"cuda-compile: {time.time() - started:.0f} s")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
