"""Results lie in memory as torch's own would: the strides of the output and of all gradients.

torch returns everything channels_last if the input or the weight is laid out so, whatever the cotangent's layout.
Compared with torch itself here, stride by stride; but for dimensions of size 1, where no stride is ever used and
torch's own differ from dtype to dtype.
"""

from functools import partial
from itertools import product

import pytest
import torch
from conftest import EXHAUSTIVE, FLOATING
from memory import LAYOUTS
from sampling import covering

import convx

OPERAND_LAYOUTS = ("contiguous", "channels_last", "sliced", "channel_slice", "transposed", "expanded_batch", "expanded")

# name: (transposed, shape of the input, of the weight, options)
LAYERS = {
    "conv": (False, (2, 4, 6, 7), (6, 4, 3, 3), {"padding": 1}),
    "conv-stride": (False, (2, 4, 6, 7), (6, 4, 3, 2), {"stride": (2, 1)}),
    "conv-dilated": (False, (2, 4, 8, 7), (6, 4, 3, 3), {"padding": 2, "dilation": 2}),
    "conv-grouped": (False, (2, 4, 6, 7), (6, 2, 3, 3), {"groups": 2}),
    "conv-depthwise": (False, (2, 4, 6, 7), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "conv-pointwise": (False, (2, 4, 6, 7), (6, 4, 1, 1), {}),
    "conv-one-channel": (False, (2, 1, 6, 7), (6, 1, 3, 3), {}),
    "conv-to-one-channel": (False, (2, 4, 6, 7), (1, 4, 3, 3), {}),
    "conv-one-image": (False, (1, 4, 6, 7), (6, 4, 3, 3), {}),
    "conv-to-one-pixel": (False, (2, 4, 3, 3), (6, 4, 3, 3), {}),
    "conv-of-one-pixel": (False, (2, 4, 1, 1), (6, 4, 1, 1), {}),
    "transposed": (True, (2, 4, 6, 7), (4, 6, 3, 3), {}),
    "transposed-stride": (True, (2, 4, 6, 7), (4, 6, 3, 2), {"stride": (2, 3), "output_padding": (1, 0)}),
    "transposed-dilated": (True, (2, 4, 6, 7), (4, 6, 3, 3), {"dilation": 2, "padding": 1}),
    "transposed-depthwise": (True, (2, 4, 6, 7), (4, 1, 3, 3), {"groups": 4, "stride": 2}),
    "transposed-one-channel": (True, (2, 1, 6, 7), (1, 3, 3, 3), {}),
}


FACTORS = (LAYERS, FLOATING, OPERAND_LAYOUTS, OPERAND_LAYOUTS, OPERAND_LAYOUTS)


def strides(tensor):
    return tuple(stride if size > 1 else None for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def run(function, x, w, cotangent_layout):
    """{what: strides} of the output and of the gradients as the operators return them (x.grad would follow x)."""
    x, w = (t.detach().requires_grad_() for t in (x, w))
    out = function(x, w)
    cotangent = LAYOUTS[cotangent_layout](torch.ones(out.shape, dtype=out.dtype, device=out.device))
    grad_x, grad_w = torch.autograd.grad(out, (x, w), cotangent)
    return {"output": strides(out), "input gradient": strides(grad_x), "weight gradient": strides(grad_w)}


@pytest.mark.parametrize(
    "layer, dtype, x_layout, w_layout, y_layout",
    list(product(*FACTORS)) if EXHAUSTIVE else covering(*FACTORS),
    ids=str,
)
def test_strides_are_torchs(device, layer, dtype, x_layout, w_layout, y_layout):
    transposed, x_shape, w_shape, options = LAYERS[layer]
    name = "conv_transpose2d" if transposed else "conv2d"
    x = LAYOUTS[x_layout](torch.ones(x_shape, dtype=dtype, device=device))
    w = LAYOUTS[w_layout](torch.ones(w_shape, dtype=dtype, device=device))
    ours, torchs = (
        run(partial(getattr(library, name), **options), x, w, y_layout) for library in (convx, torch.nn.functional)
    )
    assert ours == torchs
