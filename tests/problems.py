"""The problems that tests are run on: ugly ones by name, and random ones by seed.

One Problem serves all three primitives, as ConvProblem does in csrc/problem.h, whose alphabet this is. P and Q may be
given: fewer than fit is what output_padding makes, more is what asymmetric padding (padding='same') makes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
Pair = tuple[int, int]


def fitting(size_in: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many windows fit into a padded axis, counted one by one rather than by the formula under test."""
    count = 0
    while count * stride + dilation * (kernel - 1) < size_in + 2 * padding:
        count += 1
    return count


@dataclass(frozen=True)
class Problem:
    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    G: int = 1
    mode: str = "zeros"
    P: int = -1  # as many as fit, unless given
    Q: int = -1

    def __post_init__(self):
        for name, axis in (("P", 0), ("Q", 1)):
            if getattr(self, name) < 0:
                object.__setattr__(self, name, fitting(*self._axis(axis)[:5]))
        assert self.C % self.G == 0 and self.K % self.G == 0

    def _axis(self, i: int):
        """(input size, kernel, stride, padding, dilation, output size) along the rows or the columns."""
        size_in, kernel, size_out = ((self.H, self.R, self.P), (self.W, self.S, self.Q))[i]
        return size_in, kernel, self.stride[i], self.padding[i], self.dilation[i], size_out

    def __str__(self):
        def pair(p):
            return f"{p[0]}x{p[1]}"

        sizes = f"N{self.N}C{self.C}H{self.H}W{self.W}K{self.K}R{self.R}S{self.S}P{self.P}Q{self.Q}"
        groups = f"G{self.G}" if self.G > 1 else ""
        geometry = f"s{pair(self.stride)}p{pair(self.padding)}d{pair(self.dilation)}"
        return f"{sizes}{groups}-{geometry}-{self.mode}"

    @property
    def x_shape(self):
        return self.N, self.C, self.H, self.W

    @property
    def w_shape(self):
        return self.K, self.C // self.G, self.R, self.S

    @property
    def y_shape(self):
        return self.N, self.K, self.P, self.Q

    def shapes(self, primitive: str):
        """The shapes of (first operand, second operand, result)."""
        x, w, y = self.x_shape, self.w_shape, self.y_shape
        return {"forward": (x, w, y), "grad_input": (y, w, x), "grad_weight": (x, y, w)}[primitive]

    def args(self, primitive: str, channels_last: bool = False):
        """What follows the operands and the bias in a call of a primitive."""
        size = self.shapes(primitive)[2][2:]
        return (*self.geometry, size, self.mode, channels_last)

    @property
    def geometry(self):
        return self.stride, self.padding, self.dilation, self.G

    @property
    def padding_after(self) -> Pair:
        """How far beyond the last row and column the windows reach; negative if they don't reach it."""
        return tuple(
            (out - 1) * stride - padding + (kernel - 1) * dilation - (size_in - 1)
            for size_in, kernel, stride, padding, dilation, out in map(self._axis, (0, 1))
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether padding on both sides gives just this P and Q, as conv2d has it."""
        return all(fitting(*self._axis(i)[:5]) == self._axis(i)[5] for i in (0, 1))

    @property
    def output_padding(self) -> Pair:
        """What conv_transpose2d adds to the smallest H and W that P and Q come from."""
        return tuple(p - a for a, p in zip(self.padding_after, self.padding, strict=True))

    @property
    def is_transposable(self) -> bool:
        """Whether conv_transpose2d takes it: 0 <= output_padding, and smaller than the stride or the dilation."""
        extra = zip(self.output_padding, self.stride, self.dilation, strict=True)
        return self.mode == "zeros" and all(0 <= e < max(s, d) for e, s, d in extra)

    def allows(self, mode: str) -> bool:
        """torch's limits: reflect padding is smaller than the input, circular padding is at most as large."""
        if mode == "zeros":
            return True
        limit = {"reflect": -1, "circular": 0, "replicate": 10**9}[mode]
        reach = zip(self.x_shape[2:], self.padding, self.padding_after, strict=True)
        return all(max(before, after) <= size + limit for size, before, after in reach)


UGLY = {
    "one": Problem(1, 1, 1, 1, 1, 1, 1),
    "plain": Problem(2, 3, 7, 8, 4, 3, 3, padding=(1, 1)),
    "everything": Problem(2, 4, 9, 8, 6, 3, 2, (2, 1), (1, 0), (2, 1), G=2),
    "everything-turned": Problem(2, 4, 8, 9, 6, 2, 3, (1, 2), (0, 1), (1, 2), G=2),
    "stride": Problem(2, 3, 8, 7, 4, 3, 2, stride=(2, 1)),
    "stride-remainder": Problem(2, 3, 9, 10, 4, 2, 2, stride=(3, 4)),
    "stride-beyond-kernel": Problem(2, 2, 13, 11, 3, 2, 1, stride=(5, 3), padding=(1, 0)),
    "stride-beyond-input": Problem(2, 2, 4, 5, 3, 3, 3, stride=(7, 9), padding=(1, 1)),
    "padding": Problem(2, 3, 6, 7, 4, 3, 2, padding=(1, 0)),
    "padding-large": Problem(1, 2, 3, 4, 3, 3, 2, padding=(5, 4)),
    "padding-large-stride": Problem(1, 2, 3, 4, 3, 2, 3, (3, 2), (4, 5)),
    "padding-of-input": Problem(1, 2, 4, 3, 3, 3, 2, padding=(4, 3)),
    "dilation": Problem(2, 3, 9, 7, 4, 3, 2, dilation=(2, 1)),
    "dilation-padding": Problem(1, 3, 9, 8, 4, 3, 3, (1, 2), (3, 2), (3, 2)),
    "dilation-beyond-input": Problem(1, 2, 4, 5, 3, 2, 2, padding=(3, 2), dilation=(7, 6)),
    "kernel-of-input": Problem(3, 4, 5, 6, 7, 5, 6),
    "kernel-beyond-input": Problem(2, 3, 4, 3, 5, 6, 5, padding=(1, 2)),
    "patches": Problem(2, 5, 6, 34, 7, 2, 2, stride=(2, 2)),
    "patches-uneven": Problem(2, 6, 9, 8, 4, 3, 4, stride=(3, 4), G=2),
    "overlapping-line": Problem(2, 1, 1, 27, 5, 1, 12, stride=(1, 3)),
    "long-line": Problem(1, 2, 1, 150, 3, 1, 80, stride=(1, 2)),
    "tall-kernel": Problem(2, 3, 9, 4, 4, 7, 1, padding=(3, 0)),
    "wide-kernel": Problem(2, 3, 4, 9, 4, 1, 7, (1, 2), (0, 3)),
    "large-kernel": Problem(1, 2, 17, 15, 2, 13, 11, padding=(6, 5)),
    "one-row": Problem(2, 3, 1, 19, 4, 1, 3, padding=(0, 1)),
    "one-column": Problem(2, 3, 19, 1, 4, 3, 1, (2, 2), (1, 0)),
    "output-width-1": Problem(2, 3, 9, 4, 5, 3, 3, (2, 2), (1, 0)),
    "pointwise": Problem(2, 5, 6, 7, 9, 1, 1),
    "pointwise-stride": Problem(2, 5, 7, 8, 3, 1, 1, stride=(2, 3)),
    "pointwise-padding": Problem(1, 2, 4, 4, 3, 1, 1, padding=(2, 1)),
    "tiles": Problem(1, 17, 9, 35, 33, 3, 3, padding=(1, 1)),
    "deep": Problem(1, 67, 5, 6, 19, 3, 3, padding=(1, 1)),
    "many-outputs": Problem(1, 5, 4, 7, 131, 2, 2),
    "first-layer": Problem(1, 3, 19, 21, 8, 7, 7, (2, 2), (3, 3)),
    "batch": Problem(11, 3, 5, 4, 4, 3, 3, padding=(1, 1)),
    "groups": Problem(2, 6, 6, 7, 9, 3, 3, padding=(1, 1), G=3),
    "groups-of-17": Problem(1, 34, 5, 6, 34, 3, 2, padding=(1, 0), G=2),
    "depthwise": Problem(2, 5, 7, 9, 5, 3, 3, padding=(1, 1), G=5),
    "depthwise-stride": Problem(2, 5, 9, 8, 5, 3, 2, (2, 1), (1, 0), G=5),
    "depthwise-multiplied": Problem(2, 3, 7, 6, 9, 3, 3, padding=(1, 1), dilation=(1, 2), G=3),
    "depthwise-merging": Problem(2, 6, 7, 6, 3, 2, 3, (1, 2), (1, 1), G=3),
    "depthwise-wide": Problem(2, 3, 5, 37, 3, 3, 5, padding=(1, 2), G=3),
    "depthwise-7x7": Problem(1, 4, 12, 19, 4, 7, 7, padding=(3, 3), G=4),
    "depthwise-narrow": Problem(3, 4, 9, 2, 4, 5, 3, padding=(2, 1), G=4),
    "depthwise-dilated": Problem(2, 3, 9, 21, 3, 3, 3, padding=(3, 2), dilation=(3, 2), G=3),
    "depthwise-one-row-kernel": Problem(2, 3, 6, 17, 6, 1, 5, padding=(0, 2), G=3),
    "depthwise-cut-rows": Problem(1, 3, 9, 18, 3, 4, 3, padding=(1, 1), G=3),
    "depthwise-17": Problem(2, 17, 7, 6, 17, 3, 3, padding=(1, 1), G=17),
    "few-outputs": Problem(2, 20, 6, 7, 2, 3, 5, padding=(1, 2)),
    "depthwise-all-meet": Problem(2, 19, 5, 4, 19, 9, 9, padding=(4, 4), G=19),
    "depthwise-17-uneven": Problem(3, 17, 9, 8, 34, 4, 5, (2, 3), (2, 2), G=17),
    "depthwise-row-stride": Problem(1, 3, 9, 18, 3, 3, 3, (2, 1), (1, 1), G=3),
    "merging-same": Problem(2, 6, 7, 17, 3, 3, 3, padding=(1, 1), G=3),
    "from-one-channel": Problem(2, 1, 9, 19, 8, 3, 3, padding=(1, 1)),
    "to-one-channel": Problem(2, 8, 9, 19, 1, 3, 3, padding=(1, 1)),
    "same-even": Problem(2, 3, 7, 6, 4, 2, 4, padding=(0, 1), P=7, Q=6),
    "same-even-dilated": Problem(1, 2, 9, 9, 3, 4, 2, padding=(4, 1), dilation=(3, 3), P=9, Q=9),
    "output-padding": Problem(2, 4, 10, 8, 3, 3, 3, (3, 2), (1, 1), P=3, Q=4),
    "output-padding-dilation": Problem(2, 4, 9, 10, 3, 3, 2, (1, 2), (1, 0), (3, 4), P=3, Q=2),
    "generator": Problem(1, 4, 8, 8, 6, 4, 4, (2, 2), (1, 1)),
    "upsample": Problem(2, 3, 9, 9, 2, 3, 3, (2, 2), (1, 1), P=5, Q=5),
    "no-batch": Problem(0, 3, 6, 5, 4, 3, 2, (2, 1), (1, 0)),
    "no-channels": Problem(2, 0, 6, 5, 4, 3, 2, (2, 1), (1, 0)),
    "reach-beyond": Problem(1, 2, 4, 4, 3, 2, 2, padding=(0, 0), P=6, Q=7),
    "reads-only-padding": Problem(1, 1, 2, 2, 2, 1, 1, (5, 5), (5, 6), P=1, Q=1),
}

# Large enough for the CPU's kernels to work in several blocks, passes or sums of sums; too large for the emulator.
SEVERAL_BLOCKS = {
    "very-deep": Problem(1, 4200, 1, 2, 3, 1, 1),
    "wide-and-deep": Problem(1, 17, 5, 400, 3, 3, 3, padding=(1, 1)),
    "depthwise-strips": Problem(1, 17, 70, 67, 17, 5, 3, padding=(2, 1), G=17),
}


def with_modes(problems: dict[str, Problem]) -> dict[str, Problem]:
    """The problems as they are, and those that read beyond the edge again in the other padding modes."""
    result = dict(problems)
    for name, p in problems.items():
        reads_padding = max(*p.padding, *p.padding_after) > 0
        for mode in PADDING_MODES[1:]:
            if reads_padding and p.C and p.allows(mode):
                result[f"{name}-{mode}"] = replace(p, mode=mode)
    return result


def random_problem(seed: int, largest: int = 150_000) -> Problem:
    """A small problem with everything drawn at random, of at most `largest` multiply-adds."""
    rng = random.Random(seed)

    def size(
        most,
    ):  # small ones, and one in eight large: what tiles and vectors make of remainders shows there
        return rng.randint(1, most if rng.random() < 0.125 else max(1, most // 4))

    while True:
        groups = rng.choice((1, 1, 1, 2, 3, 5))
        kernel = size(12), size(12)
        problem = {
            "N": rng.choice((1, 1, 2, 3, 5)),
            "C": groups * size(40),
            "H": size(40),
            "W": size(40),
            "K": groups * size(40),
            "R": kernel[0],
            "S": kernel[1],
            "stride": (rng.choice((1, 1, 2, 3, size(8))), rng.choice((1, 1, 2, 3, size(8)))),
            "padding": (
                rng.choice((0, 1, kernel[0] // 2, size(8))),
                rng.choice((0, 1, kernel[1] // 2, size(8))),
            ),
            "dilation": (rng.choice((1, 1, 2, size(6))), rng.choice((1, 1, 2, size(6)))),
            "G": groups,
        }
        if rng.random() < 0.2:  # as many outputs as inputs, as in most networks
            same = [d * (k - 1) // 2 for d, k in zip(problem["dilation"], kernel, strict=True)]
            problem |= {"stride": (1, 1), "padding": tuple(same)}
        p = Problem(**problem)
        if rng.random() < 0.2:  # depthwise
            p = replace(p, G=p.C, K=p.C * rng.choice((1, 1, 2)))
        if rng.random() < 0.15:  # an output size of its own
            p = replace(p, P=max(1, p.P + rng.randint(-2, 2)), Q=max(1, p.Q + rng.randint(-2, 2)))
        work = p.N * p.K * p.P * p.Q * (p.C // p.G) * p.R * p.S
        if not 0 < work <= largest or p.N * p.C * p.H * p.W > 50_000:
            continue
        mode = rng.choice((*PADDING_MODES, "zeros"))
        return replace(p, mode=mode) if p.allows(mode) else p
