"""A table of the CUDA kernels, without a GPU: registers, shared memory and occupancy, for each architecture.

    python tools/cuda_report.py [--arch 90a] [--kernel REGEX]

Registers are what nvcc reports (cuda_compile.py). How large blocks are and how much shared memory they get is decided
when a kernel is launched; so the emulator of tests/emulator pretends a GPU of each architecture, and every layer of
benchmarks/shapes/ is launched on it, in four dtypes and two layouts, without running anything. What the automatic
choice never takes is forced.

Occupancy is the warps that a multiprocessor keeps at once over those that it could; a kernel that computes a lot for
each load needs little of it, one that waits for memory needs more. With it comes what limits it.
"""

import argparse
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(ROOT)]

from cuda_compile import CompileError, compile_sources  # noqa: E402
from cuda_toolkit import architectures, cuda_home, short_names  # noqa: E402


class Multiprocessor(NamedTuple):
    """What a multiprocessor has for the blocks that it holds at once, and the GPU that is pretended around it."""

    gpu: str
    count: int  # of multiprocessors on the GPU
    shared_bytes: int
    shared_per_block: int  # at most
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


# From the CUDA C++ Programming Guide's table of technical specifications per compute capability.
MULTIPROCESSORS = {
    "80": Multiprocessor("A100", 108, 164 * 1024, 163 * 1024),
    "90a": Multiprocessor("H100", 132, 228 * 1024, 227 * 1024),
    "100": Multiprocessor("B200", 148, 228 * 1024, 227 * 1024),
}
SHARED_KEPT = 1024  # bytes of each block's shared memory that the system keeps for itself
SHARED_STEP = 128  # shared memory is given out in multiples of this
REGISTER_STEP = 256  # and registers, to a warp
QUARTERS = 4  # a warp lives in one of a multiprocessor's quarters, and takes its registers there


def occupancy(m: Multiprocessor, registers: int, threads: int, shared_bytes: int) -> tuple[int, float, str]:
    """(blocks on a multiprocessor at once, share of its warps in use, what limits them)."""
    warps = math.ceil(threads / 32)
    of_a_warp = math.ceil(registers * 32 / REGISTER_STEP) * REGISTER_STEP
    of_a_block = math.ceil((shared_bytes + SHARED_KEPT) / SHARED_STEP) * SHARED_STEP
    limits = {
        "registers": m.registers // QUARTERS // of_a_warp * QUARTERS // warps,
        "shared memory": m.shared_bytes // of_a_block,
        "warps": m.warps // warps,
        "blocks": m.blocks,
    }
    blocks = min(limits.values())
    return blocks, blocks * warps / m.warps, next(name for name, n in limits.items() if n == blocks)


def launches(m: Multiprocessor, capability: int) -> dict[tuple[str, int], dict]:
    """For each kernel (mangled) and number of threads: shared bytes, least and most, and how many layers choose it."""
    import torch
    from emulator import library as emulator
    from problems import Problem

    from benchmarks.shapes import load

    emulator.pretend_device(capability, m.count, m.shared_per_block)
    emulator.configure(dry=True)
    emulator.launched(forget=True)
    found = {}

    def launch_all(primitive, algorithm, chosen):
        for shape in load():
            s = shape
            problem = Problem(s.N, s.C, s.H, s.W, s.K, s.R, s.S, s.stride, s.padding, s.dilation, s.G, P=s.P, Q=s.Q)
            for dtype, tf32 in KINDS:
                for layout in (torch.contiguous_format, torch.channels_last):
                    first, second, result = (
                        torch.empty(size, dtype=dtype, device="meta", memory_format=layout)
                        for size in problem.shapes(primitive)
                    )
                    try:
                        emulator.run_into(result, primitive, algorithm, first, second, None, problem, tf32)
                    except RuntimeError as refused:
                        if chosen or "was forced but can't do" not in str(refused):
                            raise
        for row in emulator.launched(forget=True):
            entry = found.setdefault((row.symbol, row.threads), {"shared": set(), "chosen": 0})
            entry["shared"].add(row.shared_bytes)
            entry["chosen"] += row.launches if chosen else 0

    KINDS = [(d, False) for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)]
    KINDS.append((torch.float32, True))
    try:
        for primitive, rows in emulator.algorithms().items():
            launch_all(primitive, "", chosen=True)
            for algorithm in rows:
                launch_all(primitive, algorithm, chosen=False)
    finally:
        emulator.configure()
        emulator.pretend_device()
    return found


def span(values, unit="") -> str:
    low, high = min(values), max(values)
    return f"{low:g}{unit}" if low == high else f"{low:g}-{high:g}{unit}"


def table(architecture: str, m: Multiprocessor, kernels: dict[str, int], launched: dict, pattern: str) -> list[str]:
    """Lines for one architecture. `kernels`: registers by mangled name."""
    names = dict(zip(kernels, short_names(list(kernels)), strict=True))
    sizes = defaultdict(list)
    for (symbol, threads), entry in launched.items():
        sizes[symbol].append((threads, entry))
    width = min(70, max(map(len, names.values()), default=6))
    lines = [
        f"sm_{architecture}, as in {m.gpu}",
        f"{'kernel':<{width}} {'registers':>9} {'threads':>7} {'shared KiB':>12} {'blocks':>7} {'occupancy %':>12} "
        f"{'limited by':<24} launches chosen",
    ]
    for symbol, name in sorted(names.items(), key=lambda item: item[1]):
        if not re.search(pattern, name):
            continue
        if symbol not in sizes:
            lines.append(f"{name:<{width}} {kernels[symbol]:>9} {'-':>7}  no layer of benchmarks/shapes/ launches it")
        for threads, entry in sorted(sizes[symbol], key=lambda size: size[0]):
            results = [occupancy(m, kernels[symbol], threads, shared) for shared in sorted(entry["shared"])]
            limits = sorted({limit for _, _, limit in results})
            lines.append(
                f"{name:<{width}} {kernels[symbol]:>9} {threads:>7} "
                f"{span([round(s / 1024, 1) for s in entry['shared']]):>12} {span([b for b, _, _ in results]):>7} "
                f"{span([round(100 * o) for _, o, _ in results]):>12} {', '.join(limits):<24} {entry['chosen']}"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Registers, shared memory and occupancy of the CUDA kernels.")
    parser.add_argument("--arch", action="append", choices=MULTIPROCESSORS, help="by default all that nvcc knows")
    parser.add_argument("--kernel", default="", help="a regular expression for the kernels' names")
    options = parser.parse_args()
    home = cuda_home()
    if home is None:
        print("cuda-report: skipped, no nvcc found (put it on PATH or set CUDA_HOME)")
        return 0
    archs = architectures(home)
    compiled = compile_sources(home, archs)
    for source, kernels in compiled.items():
        if isinstance(kernels, CompileError):
            print(f"{source.name}: {kernels}")
            return 1
    for architecture in options.arch or archs:
        m = MULTIPROCESSORS[architecture]
        registers = {
            k.symbol: k.registers for kernels in compiled.values() for k in kernels if k.architecture == architecture
        }
        launched = launches(m, int(architecture.rstrip("a")))
        print("\n".join(table(architecture, m, registers, launched, options.kernel)), end="\n\n")
    print("launches chosen: over the layers of benchmarks/shapes/, the three primitives, four dtypes, float32 also")
    print("with TF32, and two layouts; 0 for what is only launched when forced")
    return 0


if __name__ == "__main__":
    sys.exit(main())
