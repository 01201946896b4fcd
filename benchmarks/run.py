"""convx beside torch, layer by layer, and what each class of layers comes to.

    python -m benchmarks.run                                   all shapes, float32, on the CPU
    python -m benchmarks.run --dtype bfloat16 --classes depthwise "transposed, dense" --save
    python -m benchmarks.run --device cuda --layout best --primitive grad_weight

Both sides run in turns in one process on the same tensors (timing.py); every result is checked against the definition
in float64 before its time counts (check.py). Every row is printed, won or lost; --save keeps them with the machine and
the commit in benchmarks/results/, and `python -m benchmarks.report FILE` prints them again. The roofs of the machine
are measured first (roofs.py, gpu.py), and every row says what share of them it reaches. On a GPU torch is also timed
with cudnn.benchmark, and its best counts; inputs rotate, so that the cache does not flatter (gpu.py).
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from . import check, gpu, report, roofs
from .commands import parsed, parser
from .computations import (
    COMPUTATIONS,
    DTYPES,
    LAYOUTS,
    Operands,
    convx_call,
    in_layout,
    make_operands,
    primitive_of,
    torch_backend,
    torch_call,
)
from .shapes import CLASSES, Shape, load
from .timing import interleaved


def sides(
    shape: Shape, computation: str, laid_out: dict[str, Operands], device: str
) -> dict[tuple[str, str, bool], Callable[[], Tensor]]:
    """What to time: {("torch" or "convx", layout, with cudnn.benchmark): call}."""
    calls = {}
    for layout, operands in laid_out.items():
        turns = gpu.copies(operands) if device == "cuda" else [operands]
        calls["convx", layout, False] = gpu.in_turns([convx_call(shape, computation, o, layout) for o in turns])
        torchs = gpu.in_turns([torch_call(shape, computation, o) for o in turns])
        if device == "cuda":
            calls |= {("torch", layout, on): gpu.with_cudnn_benchmark(on, torchs) for on in (False, True)}
        else:
            calls["torch", layout, False] = torchs
    return calls


def measure(
    shape: Shape, computation: str, dtype: str = "float32", device: str = "cpu", layout: str = "contiguous",
    seconds: float = 0.5, best: dict[str, float] | None = None, tf32: bool = False, graphs: bool = True,
) -> dict:  # fmt: skip
    """One row: both sides' times for one computation of one layer, and whether convx's result is right.

    layout='best' times each side in both layouts and takes its better one; `graphs` is interleaved()'s. With `best`,
    roofs.measure()'s, the row has the share of the nearest roof that each side reaches.
    """
    operands = make_operands(shape, DTYPES[dtype], device)
    layouts = list(LAYOUTS) if layout == "best" else [layout]
    laid_out = {name: in_layout(operands, name) for name in layouts}
    calls = sides(shape, computation, laid_out, device)
    timings = interleaved(calls, device, seconds, graphs=graphs)
    best_torch, best_convx = (
        min((key for key in calls if key[0] == side), key=lambda key: timings[key].median)
        for side in ("torch", "convx")
    )
    ours, theirs, torch_layout = timings[best_convx], timings[best_torch], best_torch[1]
    error, torch_error, right = check.errors(shape, computation, operands, ours.result, theirs.result, tf32)
    row = {
        "shape": shape.name,
        "set": shape.set,
        "class": shape.class_name,
        "problem": shape.problem,
        "computation": computation,
        "primitive": primitive_of(shape, computation),
        "gflop": shape.gflop,
        "needed_gflop": shape.needed_gflop,
        "bytes": shape.values * operands.x.element_size(),
        "convx_layout": best_convx[1],
        "torch_layout": torch_layout,
        "cudnn_benchmark": best_torch[2],
        "torch_backend": torch_backend(shape, laid_out[torch_layout]),
        "torch_ms": theirs.median * 1e3,
        "convx_ms": ours.median * 1e3,
        "torch_first_ms": theirs.first * 1e3,
        "convx_first_ms": ours.first * 1e3,
        "rounds": ours.rounds,
        "ratio": theirs.median / ours.median,
        "error": error,
        "torch_error": torch_error,
        "right": right,
    }
    return {**row, **shares(row, dtype, best)} if best else row


def shares(row: dict, dtype: str, best: dict[str, float]) -> dict[str, float]:
    """The time that the nearest roof allows over the time taken, of both sides of a row."""
    least = roofs.least_ms(row["needed_gflop"], row["bytes"], dtype, best)
    return {"share": least / row["convx_ms"], "torch_share": least / row["torch_ms"]}


def rows_of(options: argparse.Namespace, best: dict[str, float] | None) -> Iterator[dict]:
    started = time.perf_counter()
    shapes = every(options.every, load(options.classes, options.shapes))
    for shape in in_rotation(shapes) if options.minutes < float("inf") else shapes:
        if time.perf_counter() - started > options.minutes * 60:
            print(f"stopped after {options.minutes:g} minutes, before {shape.name}")
            return
        small = shape.at_most(options.max_gflop)
        if small is None:
            print(f"{shape.name[:27]:<28}left out: one sample is {shape.gflop / shape.N:.1f} GFLOP")
            continue
        for computation in options.primitive:
            settings = options.dtype, options.device, options.layout, options.seconds
            yield measure(small, computation, *settings, best, options.tf32, not options.eager)


def every(n: int, shapes: Iterable[Shape]) -> Iterator[Shape]:
    """Of each class the first, and every n-th after it."""
    for _, mine in itertools.groupby(shapes, key=lambda shape: shape.class_name):
        yield from itertools.islice(mine, 0, None, n)


def in_rotation(shapes: Iterable[Shape]) -> Iterator[Shape]:
    """The first of each class, then the second of each: so that none is left out when time runs out."""
    classes = [list(mine) for _, mine in itertools.groupby(shapes, key=lambda shape: shape.class_name)]
    return (shape for one_of_each in itertools.zip_longest(*classes) for shape in one_of_each if shape is not None)


def parse() -> argparse.Namespace:
    seconds = "how long the rounds of one row last, three rounds at least"
    options = parser("run", __doc__, 0.5, seconds_help=seconds, epilog=f"classes: {'; '.join(CLASSES)}")
    add = options.add_argument
    add("--dtype", choices=DTYPES, default="float32")
    add(
        "--primitive", nargs="+", choices=COMPUTATIONS, default=list(COMPUTATIONS), metavar="NAME",
        help="forward, grad_input, grad_weight: of the layer, so a transposed layer's forward is the primitive "
        "grad_input, and its grad_input the primitive forward",
    )  # fmt: skip
    add("--classes", nargs="+", choices=CLASSES, metavar="CLASS", help="see below; all by default")
    add("--shapes", nargs="+", metavar="NAME", help="names from benchmarks/shapes/; all by default")
    add(
        "--max-gflop",
        type=float,
        default=2.0,
        help="batches are halved until a call is at most this much (2); left out where one sample is 4 times that",
    )
    add("--layout", choices=(*LAYOUTS, "best"), default="contiguous", help="best: each side in its better one")
    add("--every", type=int, default=1, metavar="N", help="only every N-th shape of each class")
    add(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin no more layers after so many minutes; classes take turns then",
    )
    add("--tf32", action="store_true", help="on a GPU: both sides may use TF32 for float32")
    add("--eager", action="store_true", help="on a GPU: calls from Python, not recorded as CUDA graphs")
    add("--save", action="store_true", help="keep the rows in benchmarks/results/")
    return parsed(options)


def measured_roofs(options: argparse.Namespace) -> dict[str, float] | None:
    """None where they can't be measured, which is said."""
    if options.device == "cuda":
        return gpu.measure_roofs()
    try:
        return roofs.measure(options.threads)
    except OSError as failed:
        print(f"no roofs, and no shares of them: {failed}")
        return None


def best_of_both(best: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    """The roofs measured again, the higher of each: neighbours on a shared machine only ever lower them."""
    again = measured_roofs(options) or best
    return {name: max(roof, again.get(name, 0.0)) for name, roof in best.items()}


def main() -> int:
    options = parse()
    if options.device == "cuda":
        gpu.allow_tf32(options.tf32)
    best = measured_roofs(options)
    about = report.about(options, best)
    print(report.heading(about))
    print(report.row_heading())
    rows = []
    for row in rows_of(options, best):
        rows.append(row)
        print(report.row_line(row), flush=True)
    if best and options.device == "cpu":
        best = best_of_both(best, options)
        about["roofs"] = best
        rows = [{**row, **shares(row, options.dtype, best)} for row in rows]
    print(report.summary(rows))
    if about.get("roofs") and options.device == "cpu":
        print(f"its shares are of the higher of two measurements: {roofs.describe(best)}")
    if options.save:
        print(f"saved: {report.save(about, rows)}")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
