"""Padding modes: convx.conv2d(padding_mode=...), which makes no padded copy, beside torch's F.pad and F.conv2d.

    python -m benchmarks.padding [--shapes NAME ...] [--modes reflect ...]

Forward, and forward and backward to input and weight. Exits with 1 if the two sides' results differ.
"""

import sys

import torch
from torch import Tensor
from torch.nn import functional

import convx

from .commands import Pairs, parser, start
from .computations import DTYPES, make_operands
from .shapes import Shape, load
from .timing import interleaved, with_gradients

MODES = ("reflect", "replicate", "circular")
SHAPES = (
    "db_train_8",
    "resnet_50_v1_5:conv1",
    "googlenet_v3:mixed_4_tower_conv_1_conv2d*2",
    "resnext_101:conv12*3",
    "mobilenet:conv3_1/dw",
    "c384_14",
)


def calls(shape: Shape, mode: str, dtype: torch.dtype, device: str) -> dict:
    """By name what is timed: torch's and convx's callable."""
    s, o = shape, make_operands(shape, dtype, device)
    x, w = o.x.requires_grad_(), o.w.requires_grad_()
    around = (s.padding[1], s.padding[1], s.padding[0], s.padding[0])  # F.pad takes the last dimension first

    def theirs() -> Tensor:
        return functional.conv2d(functional.pad(x, around, mode), w, None, s.stride, 0, s.dilation, s.G)

    def ours() -> Tensor:
        return convx.conv2d(x, w, None, s.stride, s.padding, s.dilation, s.G, padding_mode=mode)

    both = {"torch": theirs, "convx": ours}
    return {"forward": both, "forward and backward": {side: with_gradients(call, x, w) for side, call in both.items()}}


def same(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether results agree as far as one can ask: to half of the dtype's digits of the largest value."""
    if isinstance(ours, Tensor):
        ours, theirs = (ours,), (theirs,)
    pairs = zip(ours, theirs, strict=True)
    return all((a - b).abs().max() <= torch.finfo(a.dtype).eps ** 0.5 * b.abs().max() for a, b in pairs)


def main() -> int:
    made = parser("padding", __doc__, seconds=0.3)
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=", ".join(MODES))
    made.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NAME", help="convolutions with padding")
    made.add_argument("--max-gflop", type=float, default=1.0, help="batches are halved as benchmarks.run does (1)")
    options = start(made)
    pairs, wrong = Pairs("layer", "ms"), 0
    for shape in load(names=options.shapes):
        small = shape.at_most(options.max_gflop)
        if small is None or shape.transposed:
            print(f"{shape.name}: left out, {'transposed' if shape.transposed else 'too much work'}")
            continue
        for mode in options.modes:
            for what, both in calls(small, mode, DTYPES[options.dtype], options.device).items():
                timings = interleaved(both, options.device, options.seconds)
                good = same(timings["convx"].result, timings["torch"].result)
                wrong += not good
                pairs.add(f"{shape.name[:28]:<29}{mode}, {what}", timings, ("" if good else "OFF ") + small.problem)
    pairs.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
