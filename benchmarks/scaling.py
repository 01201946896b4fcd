"""What more threads bring: each call on one thread and on --threads, of convx and of torch, in turns.

    python -m benchmarks.scaling [--threads 2] [--classes CLASS ...]

For layers of at least 0.1 GFLOP (--min-gflop). convx's results on one thread and on many must be the same bits; exits
with 1 if some are not. Two threads can't be twice as fast where the machine's two processors share one core: torch's
column beside convx's says what the machine has.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from . import report
from .commands import parser, start
from .computations import COMPUTATIONS, DTYPES, convx_call, make_operands, torch_call
from .shapes import CLASSES, load
from .timing import interleaved

SIDES = ("torch", "convx")


def on(threads: int, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call on so many threads; setting their number takes a microsecond or two."""

    def run() -> Tensor:
        torch.set_num_threads(threads)
        return call()

    return run


def main() -> int:
    made = parser("scaling", __doc__, seconds=0.2)
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--classes", nargs="+", choices=CLASSES, metavar="CLASS", help="all by default")
    made.add_argument("--shapes", nargs="+", metavar="NAME", help="names from benchmarks/shapes/; all by default")
    made.add_argument("--max-gflop", type=float, default=2.0, help="batches are halved as benchmarks.run does (2)")
    made.add_argument("--min-gflop", type=float, default=0.1, help="smaller calls are left out (0.1)")
    options = start(made)
    print(f"{'layer':<28}{'':<12}{'torch':>7}{'convx':>7}  of {options.threads} threads, times one thread's speed")
    gains, different = {side: [] for side in SIDES}, 0
    for shape in load(options.classes, options.shapes):
        small = shape.at_most(options.max_gflop)
        if small is None or small.gflop < options.min_gflop:
            continue
        operands = make_operands(small, DTYPES[options.dtype], options.device)
        for computation in COMPUTATIONS:
            sides = {
                "torch": torch_call(small, computation, operands),
                "convx": convx_call(small, computation, operands, "contiguous"),
            }
            calls = {(side, n): on(n, call) for side, call in sides.items() for n in (1, options.threads)}
            timings = interleaved(calls, options.device, options.seconds)
            for side in SIDES:
                gains[side].append(timings[side, 1].median / timings[side, options.threads].median)
            same = torch.equal(timings["convx", 1].result, timings["convx", options.threads].result)
            different += not same
            print(
                f"{shape.name[:27]:<28}{computation:<12}{gains['torch'][-1]:>7.2f}{gains['convx'][-1]:>7.2f}"
                f"  {'' if same else 'NOT THE SAME BITS '}{small.problem}",
                flush=True,
            )
    for side in SIDES:
        print(f"{side}: geometric mean {report.geometric_mean(gains[side]):.2f}, lowest {min(gains[side]):.2f}")
    print(
        f"convx: the same bits on 1 and {options.threads} threads in {len(gains['convx']) - different} rows, ", end=""
    )
    print(f"other bits in {different}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
