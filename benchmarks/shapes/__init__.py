"""The layer shapes that benchmarks run over: real ones, each set from a source named in sources.json.

A file of this folder is a list of layers as their authors write them (c_in is what goes into the layer, transposed or
not); Shape holds the same in the alphabet of csrc/problem.h.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).parent

# In the order of the tables; a shape belongs to the first that matches in Shape.class_name.
CLASSES = (
    "dense",
    "1x1",
    "first layer",
    "dilated",
    "grouped",
    "depthwise",
    "depthwise, k >= 13",
    "transposed, dense",
    "transposed, few channels",
    "transposed, grouped",
    "transposed, depthwise",
)


@dataclass(frozen=True)
class Shape:
    """One layer: a Conv2d maps (N, C, H, W) to (N, K, P, Q), a ConvTranspose2d the other way round."""

    set: str
    name: str
    transposed: bool
    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    G: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def gflop(self) -> float:
        """Of any of the layer's three computations: a multiply-add counts two, taps in the padding count too."""
        return 2e-9 * self.N * self.K * self.P * self.Q * (self.C // self.G) * self.R * self.S

    @property
    def needed_gflop(self) -> float:
        """The same without the taps in the padding, which nobody has to multiply."""
        share = 1.0
        for size, out, kernel, stride, pad, dilation in self._axes():
            positions = (p * stride - pad + r * dilation for p in range(out) for r in range(kernel))
            share *= sum(0 <= i < size for i in positions) / (out * kernel)
        return self.gflop * share

    @property
    def values(self) -> int:
        """How many input, weight and output have together: what any of the computations reads or writes at least."""
        weights = self.K * (self.C // self.G) * self.R * self.S
        return self.N * (self.C * self.H * self.W + self.K * self.P * self.Q) + weights

    def _axes(self) -> Iterator[tuple[int, ...]]:
        """(input size, output size, kernel, stride, padding, dilation), rows before columns."""
        sizes = (self.H, self.W), (self.P, self.Q), (self.R, self.S)
        return zip(*sizes, self.stride, self.padding, self.dilation, strict=True)

    @property
    def output_padding(self) -> tuple[int, int]:
        """Of the transposed layer: what the stride leaves open about H and W."""
        return tuple(
            size - ((out - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1)
            for size, out, kernel, stride, pad, dilation in self._axes()
        )

    @property
    def class_name(self) -> str:
        channels = self.K if self.transposed else self.C  # those that go in
        depthwise = self.G > 1 and channels == self.G
        if self.transposed:
            if depthwise:
                return "transposed, depthwise"
            if self.G > 1:
                return "transposed, grouped"
            return "transposed, few channels" if min(self.C, self.K) < 16 else "transposed, dense"
        if depthwise:
            return "depthwise, k >= 13" if max(self.R, self.S) >= 13 else "depthwise"
        if self.G > 1:
            return "grouped"
        if self.R == self.S == 1:
            return "1x1"
        if self.C <= 4:
            return "first layer"
        return "dilated" if max(self.dilation) > 1 else "dense"

    @property
    def problem(self) -> str:
        """As ConvProblem::to_string() in csrc/problem.cpp writes it, after the kind of the layer."""
        sizes = " ".join(f"{letter}{getattr(self, letter)}" for letter in "NCHWKRSPQG")
        pairs = " ".join(
            f"{word} {pair[0]}x{pair[1]}"
            for word, pair in (("stride", self.stride), ("pad", self.padding), ("dilation", self.dilation))
        )
        return f"{'transposed' if self.transposed else 'conv'} {sizes} {pairs}"

    def at_most(self, gflop: float) -> "Shape | None":
        """The same with its batch halved until a call is at most so much work; None if one sample is 4 times that."""
        shape = self
        while shape.gflop > gflop and shape.N > 1:
            shape = replace(shape, N=shape.N // 2)
        return shape if shape.gflop <= 4 * gflop else None


def _from_layer(layer: dict) -> Shape:
    transposed = layer["op"] == "conv_transpose2d"
    stride, padding, dilation = (tuple(layer[k]) for k in ("stride", "padding", "dilation"))
    near = (layer["h"], layer["w"])  # the size that goes in; far is what comes out
    kernel = (layer["kh"], layer["kw"])
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if transposed:
        extra = layer["output_padding"]
        far = [(near[i] - 1) * stride[i] - 2 * padding[i] + span[i] + extra[i] for i in (0, 1)]
    else:
        far = [(near[i] + 2 * padding[i] - span[i]) // stride[i] + 1 for i in (0, 1)]
    (H, W), (P, Q) = (far, near) if transposed else (near, far)
    C, K = (layer["c_out"], layer["c_in"]) if transposed else (layer["c_in"], layer["c_out"])
    return Shape(
        layer["set"], layer["name"], transposed, layer["n"], C, H, W, K, *kernel, P, Q, layer["groups"],
        stride, padding, dilation,
    )  # fmt: skip


def load(classes: list[str] | None = None, names: list[str] | None = None) -> Iterator[Shape]:
    """The shapes of the given classes and names (each: all), class by class.

    Raises:
        ValueError: a class or a name that does not exist.
    """
    files = sorted(p for p in FOLDER.glob("*.json") if p.name != "sources.json")
    shapes = [_from_layer(layer) for file in files for layer in json.loads(file.read_text())]
    for what, wanted, known in (("class", classes, CLASSES), ("shape", names, [s.name for s in shapes])):
        for w in wanted or ():
            if w not in known:
                raise ValueError(f"expected a {what}, one of {'; '.join(known)}, but got {w!r}")
    for class_name in classes or CLASSES:
        yield from (s for s in shapes if s.class_name == class_name and (not names or s.name in names))
