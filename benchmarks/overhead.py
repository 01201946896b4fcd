"""Small problems, on which what a call costs besides its arithmetic shows: torch's and convx's microseconds.

    python -m benchmarks.overhead

Each problem six times: the function without gradients, the function and its backward pass, the same of the layer, and
of the layer under torch.compile, where a call's guards and its generated code around the convolution are in the time.
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


def calls(shape: Shape, device: str, backend: str | None = None) -> dict:
    """By name what is timed: torch's and convx's callable. Function and layer have the same weights.

    Compiled ones only if there is a backend of torch.compile to do it.
    """
    s, o = shape, make_operands(shape, torch.float32, device)
    x = (o.y if s.transposed else o.x).requires_grad_()
    weight, bias = nn.Parameter(o.w), nn.Parameter(torch.randn(s.C if s.transposed else s.K, device=device))
    name = "conv_transpose2d" if s.transposed else "conv2d"
    layer = "ConvTranspose2d" if s.transposed else "Conv2d"
    geometry = {"stride": s.stride, "padding": s.padding, "dilation": s.dilation, "groups": s.G}
    channels = (s.K, s.C) if s.transposed else (s.C, s.K)

    def function_of(library):
        function = getattr(library, name)
        return lambda: function(x, weight, bias, **geometry)

    def layer_of(library):
        module = getattr(library, layer)(*channels, (s.R, s.S), **geometry, device=device)
        module.weight, module.bias = weight, bias
        return module

    def with_and_without_gradients(what, callables):
        backward = {side: with_gradients(call, x, weight, bias) for side, call in callables.items()}
        return {what: callables, f"{what} and backward": backward}

    functions = {"torch": function_of(functional), "convx": function_of(convx)}
    modules = {"torch": layer_of(nn), "convx": layer_of(convx)}
    layers = {side: lambda module=module: module(x) for side, module in modules.items()}
    result = with_and_without_gradients(name, functions) | with_and_without_gradients(layer, layers)
    if backend is not None:
        torch.compiler.reset()  # all these layers are one function to it, of which it keeps only so many graphs
        graphs = {side: torch.compile(module, backend=backend, fullgraph=True) for side, module in modules.items()}
        compiled = {side: lambda graph=graph: graph(x) for side, graph in graphs.items()}
        result |= with_and_without_gradients(f"{layer}, compiled", compiled)
    return result


def main() -> int:
    made = parser("overhead", __doc__, seconds=0.5)
    made.add_argument("--backend", default="inductor", help="of torch.compile (inductor); none: leave that out")
    made.add_argument("--shapes", nargs="+", choices=[s.name for s in SHAPES], metavar="NAME",
                      help=", ".join(s.name for s in SHAPES))  # fmt: skip
    options = start(made)
    backend = None if options.backend == "none" else options.backend
    pairs = Pairs("problem", "us")
    for shape in SHAPES:
        if options.shapes and shape.name not in options.shapes:
            continue
        for what, both in calls(shape, options.device, backend).items():
            name = f"{shape.name}, {shape.gflop * 1e3:.2f} MFLOP: {what}"
            pairs.add(name, interleaved(both, options.device, options.seconds, ROUNDS))
    pairs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
