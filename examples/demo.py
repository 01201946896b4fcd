"""What `make demo` shows: the notebooks' examples, an autoencoder trained on photographs, and a table beside torch.

    python -m examples.demo [--only seeds autoencoder table]

Exits with 1 if anything came out wrong.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import convx
from benchmarks import report
from benchmarks.computations import COMPUTATIONS
from benchmarks.run import measure
from benchmarks.shapes import load

from . import autoencoder, seeds

OUT = Path("out")

# One layer of each class, small enough for a short table; `make bench-cpu` has them all.
TABLE = (
    "db_train_9",
    "mobilenet:conv10*4",
    "db_train_6",
    "d256_28",
    "resnext_101:conv12*3",
    "c384_14",
    "c1024_7_k13",
    "up_16to32",
    "deconv_x2_train",
    "d_g2",
    "up2_4x4_depthwise",
)
TABLE_GFLOP = 0.125


def heading(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)


def show_seeds() -> bool:
    heading("1. The worked examples of two notebooks, computed by convx")
    wrong = []
    for case in seeds.CASES:
        result, expected = case.compute(convx), case.expected()
        if isinstance(result, Tensor):
            result = result.detach()
            same = result.dtype == expected.dtype and torch.equal(result, expected)
        else:
            same = result == expected
        what = f"{case.call()}{'.weight' if case.show == 'weight' else ''}" if case.layer else "input"
        print(f"{case.notebook} In [{case.cell}]: {what}\n{result}")
        if not same:
            wrong.append(case.name)
            print(f"WRONG, the notebook shows {case.printed}")
    total = len(seeds.CASES)
    print(f"\n{total - len(wrong)} of {total} outputs are the notebooks', value for value")
    return not wrong


def show_autoencoder() -> bool:
    heading("2. An autoencoder on patches of photographs, with torch's layers and with convx's")
    try:
        import PIL  # noqa: F401 (to decode the photographs and to write the picture)
        import sklearn.datasets  # noqa: F401 (the photographs)
    except ImportError as missing:
        print(f"skipped: {missing.name} is not installed")
        return True
    return autoencoder.train(convx, OUT / "autoencoder.png")


def show_table() -> bool:
    heading("3. convx beside torch on this machine: forward and backward, losses and all")
    options = argparse.Namespace(
        device="cpu", dtype="float32", layout="contiguous", threads=torch.get_num_threads(),
        max_gflop=TABLE_GFLOP, seconds=0.1,
    )  # fmt: skip
    print(report.heading(report.about(options)))
    print(report.row_heading())
    rows = []
    for shape in load(names=list(TABLE)):
        for computation in COMPUTATIONS:
            rows.append(measure(shape.at_most(TABLE_GFLOP), computation, seconds=options.seconds))
            print(report.row_line(rows[-1]), flush=True)
    print(report.closing(rows))
    return all(row["right"] for row in rows)


PARTS = {"seeds": show_seeds, "autoencoder": show_autoencoder, "table": show_table}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    started = time.time()
    good = {part: PARTS[part]() for part in parser.parse_args().only}
    bad = [part for part, fine in good.items() if not fine]
    print(f"\ndemo: {'WRONG: ' + ', '.join(bad) if bad else 'all good'} after {time.time() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
