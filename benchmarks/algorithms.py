"""Every algorithm that can do a layer, beside the free choice and torch: where the choice leaves time on the table.

    python -m benchmarks.algorithms --device cuda --dtype float16 --every 4 --save survey.json

Each is timed in both layouts on the same tensors, in turns, and its better layout counts; of torch on a GPU, the time
with cudnn.benchmark. A row says how much longer the choice takes than the best algorithm. Rows that are only there to
be read (reference, scatter, scatter_atomic) are left out unless --all asks for them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import convx

from . import gpu, report
from .commands import parser, start
from .computations import (
    COMPUTATIONS,
    DTYPES,
    LAYOUTS,
    convx_call,
    in_layout,
    make_operands,
    primitive_of,
    torch_call,
)
from .run import every, in_rotation
from .shapes import CLASSES, Shape, load
from .timing import interleaved, seconds_of

TO_READ = ("reference", "scatter", "scatter_atomic")
CHOICE, TORCH = "choice", "torch"


def by_algorithm(primitive: str, algorithm: str, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        convx._C.force_algorithm(primitive, algorithm)
        try:
            return call()
        finally:
            convx._C.force_algorithm(primitive, "")

    return run


def is_worth_timing(call: Callable[[], Tensor], most: float, device: str) -> bool:
    """Whether the algorithm can do the layer, in at most so many seconds."""
    try:
        call()
    except RuntimeError as refused:
        if "was forced but can't do" not in str(refused):
            raise
        return False
    return seconds_of(call, 1, device)[0] <= most


def difference(ours: Tensor, theirs: Tensor) -> float:
    """In norm, relative to torch's result."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-30))


def measure(shape: Shape, computation: str, options: argparse.Namespace) -> dict:
    """One row: seconds and layout of each side, and how far each algorithm's result is from torch's."""
    operands = make_operands(shape, DTYPES[options.dtype], options.device)
    primitive, calls = primitive_of(shape, computation), {}
    names = [a.name for a in convx.algorithms(primitive, options.device) if options.all or a.name not in TO_READ]
    for layout in LAYOUTS:
        laid_out = in_layout(operands, layout)
        turns = gpu.copies(laid_out) if options.device == "cuda" else [laid_out]
        choice = gpu.in_turns([convx_call(shape, computation, o, layout) for o in turns])
        theirs = gpu.in_turns([torch_call(shape, computation, o) for o in turns])
        calls[TORCH, layout] = gpu.with_cudnn_benchmark(True, theirs) if options.device == "cuda" else theirs
        calls[CHOICE, layout] = choice
        with torch.no_grad():
            choice(), theirs()
            most = options.within * min(seconds_of(call, 1, options.device)[0] for call in (choice, theirs))
            forced = {name: by_algorithm(primitive, name, choice) for name in names}
            calls |= {(k, layout): f for k, f in forced.items() if is_worth_timing(f, most, options.device)}
    timings = interleaved(calls, options.device, options.seconds, (3, 50), graphs=True)
    result = timings[TORCH, "contiguous"].result
    times: dict[str, tuple[float, str, float]] = {}
    for (side, layout), timing in timings.items():
        if side not in times or timing.median < times[side][0]:
            times[side] = timing.median, layout, difference(timing.result, result)
    return {
        "shape": shape.name, "class": shape.class_name, "problem": shape.problem, "computation": computation,
        "gflop": shape.gflop, "bytes": shape.values * operands.x.element_size(), "times": times,
    }  # fmt: skip


def line(row: dict) -> str:
    times = row["times"]
    by_name = {name: t for name, t in times.items() if name not in (CHOICE, TORCH)}
    best = min(by_name, key=lambda name: by_name[name][0]) if by_name else CHOICE
    lost = times[CHOICE][0] / times[best][0]
    each = "  ".join(f"{name} {t[0] * 1e6:.1f}{'l' if t[1] == 'channels_last' else ''}" for name, t in times.items())
    worst = max((t[2] for name, t in times.items() if name != TORCH), default=0.0)
    ratio = times[TORCH][0] / times[CHOICE][0]
    what = f"{row['class'][:14]:<15}{row['shape'][:24]:<25}{row['computation'][:12]:<12}"
    return f"{what}{ratio:6.2f}  lost {lost:5.2f} to {best:<17} err {worst:.0e}  {each}"


def parse() -> argparse.Namespace:
    options = parser("algorithms", __doc__, 0.1, epilog=f"classes: {'; '.join(CLASSES)}")
    add = options.add_argument
    add("--dtype", choices=DTYPES, default="float32")
    add("--primitive", nargs="+", choices=COMPUTATIONS, default=list(COMPUTATIONS), metavar="NAME")
    add("--classes", nargs="+", choices=CLASSES, metavar="CLASS", help="see below; all by default")
    add("--shapes", nargs="+", metavar="NAME", help="names from benchmarks/shapes/; all by default")
    add("--max-gflop", type=float, default=2.0, help="batches are halved until a call is at most this much (2)")
    add("--every", type=int, default=1, metavar="N", help="only every N-th shape of each class")
    add(
        "--within", type=float, default=8.0, metavar="N", help="leave out what takes N times longer than the choice (8)"
    )
    add("--minutes", type=float, default=float("inf"), help="begin no more layers after so many minutes")
    add("--tf32", action="store_true", help="on a GPU: both sides may use TF32 for float32")
    add("--all", action="store_true", help="the algorithms that are there to be read, too")
    add("--save", type=Path, metavar="FILE", help="keep the rows as JSON")
    return start(options)


def main() -> int:
    options = parse()
    if options.device == "cuda":
        gpu.allow_tf32(options.tf32)
    started, rows = time.perf_counter(), []
    print("microseconds; l: in channels_last; the first number is torch's time over the choice's")
    for shape in in_rotation(every(options.every, load(options.classes, options.shapes))):
        if time.perf_counter() - started > options.minutes * 60:
            print(f"stopped after {options.minutes:g} minutes, before {shape.name}")
            break
        small = shape.at_most(options.max_gflop)
        for computation in options.primitive if small else ():
            rows.append(measure(small, computation, options))
            print(line(rows[-1]), flush=True)
        if options.save:
            options.save.write_text(json.dumps({"about": report.about(options), "rows": rows}))
    lost = [row["times"][CHOICE][0] for row in rows]
    least = [min(t[0] for name, t in row["times"].items() if name != TORCH) for row in rows]
    if rows:
        mean = report.geometric_mean([a / b for a, b in zip(lost, least, strict=True)])
        print(f"the choice takes {mean:.3f} times the best algorithm's time, geometric mean of {len(rows)} rows")
    torch.cuda.synchronize() if options.device == "cuda" else None
    return 0


if __name__ == "__main__":
    sys.exit(main())
