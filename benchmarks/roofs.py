"""What this machine can do at best, measured: multiply-adds per second, and bytes copied through memory per second.

    python -m benchmarks.roofs [--threads N]

A ratio to torch says who is faster, not how fast is fast. No convolution takes less than its operations take at the
multiply-add roof, nor, once its tensors don't fit in the caches, less than its bytes take at the rate of a copy; the
share is the longer of these two times over the time measured. Above 1 it says that the tensors stayed in the caches,
or that the machine became faster in between.

Float16 and bfloat16 are measured against float32's roof, since that is what processors without a matrix unit compute
them in; where AMX is found, bfloat16 has a roof of its own. roofs.cpp is what is measured, compiled on the spot.
"""

import ctypes
import functools
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("roofs.cpp")
OPTIONS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
# The best of several is nearest to what the machine can do: neighbours and clocks only ever take away.
ROUNDS = 3


@functools.cache
def _library() -> ctypes.CDLL:
    """roofs.cpp, compiled for this processor. Raises OSError without a compiler that can."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "roofs.so")
        for native in (["-march=native"], ["-mcpu=native"], []):
            command = [*compiler, *OPTIONS, *native, str(SOURCE), "-o", str(file)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            raise OSError(f"{shlex.join(command)} failed: {done.stderr.strip()}")
        library = ctypes.CDLL(str(file))
    seconds = (ctypes.c_int, ctypes.c_double)
    for name, types in (
        ("float32_flops", seconds),
        ("float64_flops", seconds),
        ("amx_bfloat16_flops", seconds),
        ("copy_bytes", (*seconds, ctypes.c_int64, ctypes.c_int)),
    ):
        getattr(library, name).restype = ctypes.c_double
        getattr(library, name).argtypes = types
    return library


def _cache_bytes() -> int:
    """The size of all last-level caches together, as Linux tells it; elsewhere 0."""
    caches = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        try:
            caches[(index / "shared_cpu_list").read_text()] = int((index / "size").read_text().strip().rstrip("K"))
        except (OSError, ValueError):
            continue
    return 1024 * sum(caches.values())


def _array_bytes() -> int:
    """Of each of the two arrays of a copy: far more than the caches hold, at most an eighth of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(256 << 20, 4 * _cache_bytes()), memory // 8)


def measure(threads: int, seconds: float = 0.1, array_bytes: int | None = None) -> dict[str, float]:
    """GFLOP/s by dtype, where a multiply-add counts two, and GB/s of a copy, read and written, as "copy".

    Raises:
        OSError: there is no C++ compiler, or it failed.
    """
    library = _library()

    def best(function, *arguments) -> float:
        return max(function(threads, seconds, *arguments) for _ in range(ROUNDS)) / 1e9

    roofs = {"float32": best(library.float32_flops), "float64": best(library.float64_flops)}
    if amx := best(library.amx_bfloat16_flops):
        roofs["bfloat16"] = amx
    # Which way of storing is faster depends on the processor and on how many threads there are.
    size = array_bytes or _array_bytes()
    roofs["copy"] = max(best(library.copy_bytes, size, streaming) for streaming in (0, 1))
    return roofs


def describe(roofs: dict[str, float]) -> str:
    rates = ", ".join(f"{dtype} {rate:.1f}" for dtype, rate in roofs.items() if dtype != "copy")
    return f"roofs: multiply-adds, GFLOP/s: {rates}; copy, read + written: {roofs['copy']:.1f} GB/s"


def least_ms(gflop: float, size: int, dtype: str, roofs: dict[str, float]) -> float:
    """The time that so many operations, or so many bytes, take at best: the longer one."""
    return 1e3 * max(gflop / roofs.get(dtype, roofs["float32"]), size / 1e9 / roofs["copy"])


def main() -> int:
    from .commands import parser, start

    options = start(parser("roofs", __doc__, seconds=0.3, devices=("cpu",)))
    print(describe(measure(options.threads, options.seconds)))
    print("A copy's bytes are those read and those written; lines that a store reads first are not counted.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
