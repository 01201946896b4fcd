"""Small problems, on which what a call costs besides its arithmetic shows: torch's and convx's microseconds.

    python -m benchmarks.overhead

Each problem four times: the function without gradients, the function and its backward pass, and the same of the layer.
"""

import sys
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

import convx

from .commands import Pairs, parser, start
from .computations import make_operands
from .shapes import Shape
from .timing import interleaved, with_gradients

_PLAIN = Shape(
    "", "3x3", transposed=False, N=1, C=8, H=10, W=10, K=8, R=3, S=3, P=10, Q=10, G=1,
    stride=(1, 1), padding=(1, 1), dilation=(1, 1),
)  # fmt: skip

# All of at most 0.12 MFLOP; the last has none to speak of.
SHAPES = (
    _PLAIN,
    replace(_PLAIN, name="1x1", C=16, H=14, W=14, K=16, R=1, S=1, P=14, Q=14, padding=(0, 0)),
    replace(_PLAIN, name="depthwise 3x3", C=32, H=14, W=14, K=32, P=14, Q=14, G=32),
    replace(_PLAIN, name="transposed 4x4", transposed=True, R=4, S=4, P=5, Q=5, stride=(2, 2)),
    replace(_PLAIN, name="one value", C=1, H=1, W=1, K=1, R=1, S=1, P=1, Q=1, padding=(0, 0)),
)
ROUNDS = (20, 20_000)


def calls(shape: Shape, device: str) -> dict:
    """By name what is timed: torch's and convx's callable. Function and layer have the same weights."""
    s, o = shape, make_operands(shape, torch.float32, device)
    x = (o.y if s.transposed else o.x).requires_grad_()
    weight, bias = o.w.requires_grad_(), torch.randn(s.C if s.transposed else s.K, device=device, requires_grad=True)
    name = "conv_transpose2d" if s.transposed else "conv2d"
    layer = "ConvTranspose2d" if s.transposed else "Conv2d"
    geometry = {"stride": s.stride, "padding": s.padding, "dilation": s.dilation, "groups": s.G}
    channels = (s.K, s.C) if s.transposed else (s.C, s.K)

    def function_of(library):
        function = getattr(library, name)
        return lambda: function(x, weight, bias, **geometry)

    def layer_of(library):
        module = getattr(library, layer)(*channels, (s.R, s.S), **geometry, device=device)
        module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
        return module

    functions = {"torch": function_of(functional), "convx": function_of(convx)}
    modules = {"torch": layer_of(nn), "convx": layer_of(convx)}
    return {
        name: functions,
        f"{name} and backward": {
            side: with_gradients(function, x, weight, bias) for side, function in functions.items()
        },
        layer: {side: lambda module=module: module(x) for side, module in modules.items()},
        f"{layer} and backward": {
            side: with_gradients(lambda module=module: module(x), x, module.weight, module.bias)
            for side, module in modules.items()
        },
    }


def main() -> int:
    options = start(parser("overhead", __doc__, seconds=0.5))
    pairs = Pairs("problem", "us")
    for shape in SHAPES:
        for what, both in calls(shape, options.device).items():
            name = f"{shape.name}, {shape.gflop * 1e3:.2f} MFLOP: {what}"
            pairs.add(name, interleaved(both, options.device, options.seconds, ROUNDS))
    pairs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
