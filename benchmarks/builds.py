"""This build of convx beside another one, in turns: what a change to a CPU kernel gains, to about a hundredth.

    git worktree add ../before HEAD~1 && make -C ../before build
    python -m benchmarks.builds ../before --classes 1x1 --computations forward

A ratio to torch moves by a tenth from run to run: torch's time does, and memory differs, which is new to the process or
lies elsewhere. Here the object files of both builds (build/temp*) are linked behind a function in C (builds.cpp), and
one process calls them in random order, on the same operands, all contiguous, and with the same memory for their
results. Each side may be forced to an algorithm: `. --algorithms panels outer_product` compares two of this build.
"""

import argparse
import ctypes
import functools
import os
import random
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.utils import cpp_extension

from . import report
from .commands import parser, start
from .computations import COMPUTATIONS, DTYPES, Operands, make_operands, primitive_of
from .shapes import CLASSES, Shape, load

HERE = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_suffix(".cpp")
PRIMITIVES = ("forward", "grad_input", "grad_weight")  # in the order of csrc/problem.h, as DTYPES are
LEAST_CALLS = 5


def engine(root: Path, folder: Path) -> ctypes.CDLL:
    """The CPU engine of the build in `root`. Raises OSError where it isn't built, or can't be linked."""
    built = sorted(root.glob(f"build/temp*{sysconfig.get_config_var('py_version_nodot')}/csrc/problem.o"))
    if not built:
        raise OSError(f"expected object files of a build in {root}/build/temp*, but found none")
    csrc = built[-1].parent
    objects = [csrc / "algorithm.o", csrc / "problem.o", csrc / "bindings_parallel.o", *sorted(csrc.glob("cpu/*.o"))]
    libraries = [option for path in cpp_extension.library_paths() for option in ("-L" + path, "-Wl,-rpath," + path)]
    file = folder / f"{len(list(folder.glob('*.so')))}.so"
    # Nothing but run() is seen from outside: GCC makes static variables of templates one for the whole process, so that
    # a build would find another's tables.
    exports = folder / "exports.map"
    exports.write_text("{ global: run; local: *; };")
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++20", "-O2", "-shared", "-fPIC", "-fopenmp",
               f"-Wl,--version-script={exports}", f"-I{root / 'csrc'}", str(SOURCE),
               *map(str, objects), *libraries, "-lc10", "-ltorch_cpu", "-o", str(file)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{shlex.join(command)} failed: {done.stderr.strip()}")
    library = ctypes.CDLL(str(file))
    library.run.restype = ctypes.c_char_p
    return library


def call(library: ctypes.CDLL, shape: Shape, computation: str, dtype: str, o: Operands, algorithm: str) -> str:
    """The name of the algorithm that ran. Raises RuntimeError as convx does."""
    s = shape
    sizes = (s.N, s.C, s.H, s.W, s.K, s.R, s.S, s.P, s.Q, s.G, *s.stride, *s.padding, *s.dilation)
    said = library.run(
        PRIMITIVES.index(primitive_of(s, computation)), (ctypes.c_int64 * len(sizes))(*sizes),
        list(DTYPES).index(dtype), *(ctypes.c_void_p(t.data_ptr()) for t in o), algorithm.encode(),
    ).decode()  # fmt: skip
    if said.startswith("!"):
        raise RuntimeError(said[1:])
    return said


def compare(calls: list[Callable[[], str]], seconds: float) -> tuple[list[float], list[str]]:
    """The median seconds of each call, and what each ran."""
    names, times, end = [one() for one in calls], [[] for _ in calls], time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < LEAST_CALLS:
        for side in random.sample(range(len(calls)), len(calls)):
            begun = time.perf_counter()
            calls[side]()
            times[side].append(time.perf_counter() - begun)
    return [statistics.median(of_one) for of_one in times], names


def rows(o: argparse.Namespace, sides: list[tuple[ctypes.CDLL, str]]) -> Iterator[float]:
    """Prints a row for each computation of each shape, and gives its ratio."""
    for shape in load(o.classes, o.shapes):
        if (small := shape.at_most(o.max_gflop)) is None:
            continue
        operands = make_operands(small, DTYPES[o.dtype], "cpu")
        for computation in o.computations:
            calls = [
                functools.partial(call, library, small, computation, o.dtype, operands, algorithm)
                for library, algorithm in sides
            ]
            (before, after), names = compare(calls, o.seconds)
            what = f"{small.name:<46}{computation:<12}{before * 1e3:>9.3f}{after * 1e3:>9.3f}{before / after:>7.3f}"
            print(f"{what}  {' -> '.join(dict.fromkeys(names))}", flush=True)
            yield before / after


def main() -> int:
    made = parser("builds", __doc__, seconds=1.0, devices=("cpu",), seconds_help="of each row")
    made.add_argument("other", type=Path, help="the checkout with the other build")
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--computations", nargs="+", choices=COMPUTATIONS, default=COMPUTATIONS, metavar="NAME")
    made.add_argument("--classes", nargs="+", choices=CLASSES, metavar="CLASS")
    made.add_argument("--shapes", nargs="+", metavar="NAME")
    made.add_argument("--max-gflop", type=float, default=2.0, help="as of benchmarks.run (2)")
    made.add_argument("--algorithms", nargs=2, default=("", ""), metavar="NAME",
                      help="the other's and this one's, '' for its choice")  # fmt: skip
    o = start(made)
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            (engine(root.resolve(), Path(folder)), algorithm)
            for root, algorithm in zip((o.other, HERE), o.algorithms, strict=True)
        ]
    print("milliseconds of the other build and of this one, how many times as fast this one is, and what ran")
    ratios = list(rows(o, sides))
    print(f"geometric mean {report.geometric_mean(ratios):.3f}, lowest {min(ratios):.3f} of {len(ratios)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
