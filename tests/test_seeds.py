"""What the two notebooks show, value for value, and the two statements they make about it: the formula for the output
size, and that a transposed convolution of stride 1 is a convolution of a zero-padded input.
"""

from itertools import product

import pytest
import torch
from problems import fitting

import convx
from examples.seeds import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_notebook_output(case):
    shown, expected = case.compute(convx), case.expected()
    if isinstance(expected, torch.Size):
        assert shown == expected
    else:
        assert shown.shape == expected.shape and torch.equal(shown, expected)


@pytest.mark.parametrize("case", [c for c in CASES if c.layer.startswith("Conv")], ids=lambda case: case.name)
def test_notebook_layers_are_convxs(case):
    assert type(case.make(convx)).__module__.startswith("convx")


def test_every_output_cell_is_here():
    """The cells of the notebooks that show a tensor or a size."""
    cells = {name: {c.cell for c in CASES if c.notebook == name} for name in {c.notebook for c in CASES}}
    assert cells == {
        "conv_and_transposed_conv": {2, 3, 4, *range(6, 9), *range(10, 30), 77, 78, 89, 90},
        "transposed_conv": set(range(2, 9)),
    }


# input size, kernel, stride, padding, dilation
SWEEP = list(product((1, 2, 4, 7), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2)))


@pytest.mark.parametrize("size, kernel, stride, padding, dilation", SWEEP)
def test_output_size_formula(size, kernel, stride, padding, dilation):
    """floor((input - kernel + 2*padding) / stride) + 1, with the dilated kernel; the columns get other numbers."""
    reach = dilation * (kernel - 1) + 1
    x, w = torch.ones(1, 1, size, 9), torch.ones(1, 1, kernel, 2)
    if size + 2 * padding < reach:
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            convx.conv2d(x, w, None, (stride, 2), (padding, 1), (dilation, 3))
        return
    height = (size - reach + 2 * padding) // stride + 1
    assert height == fitting(size, kernel, stride, padding, dilation)
    out = convx.conv2d(x, w, None, (stride, 2), (padding, 1), (dilation, 3))
    assert out.shape == (1, 1, height, (9 - 4 + 2 * 1) // 2 + 1)


@pytest.mark.parametrize("output_padding", (0, 1, 2))
@pytest.mark.parametrize("size, kernel, stride, padding, dilation", SWEEP)
def test_transposed_output_size_formula(size, kernel, stride, padding, dilation, output_padding):
    """(input - 1)*stride - 2*padding + dilation*(kernel - 1) + output_padding + 1; a convolution leads back."""
    y, w = torch.ones(1, 1, size, 4), torch.ones(1, 1, kernel, 2)
    height = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    arguments = ((stride, 2), (padding, 1), (output_padding, 1), 1, (dilation, 3))
    if output_padding >= max(stride, dilation):
        with pytest.raises(RuntimeError, match="output padding must be smaller than either stride or dilation"):
            convx.conv_transpose2d(y, w, None, *arguments)
        return
    if height < 1:
        with pytest.raises(RuntimeError, match="Output size is too small"):
            convx.conv_transpose2d(y, w, None, *arguments)
        return
    out = convx.conv_transpose2d(y, w, None, *arguments)
    assert out.shape == (1, 1, height, (4 - 1) * 2 - 2 * 1 + 3 * (2 - 1) + 1 + 1)
    assert out.shape == torch.conv_transpose2d(y, w, None, *arguments).shape
    if output_padding < stride:  # among the sizes that the stride maps to `size`
        assert fitting(height, kernel, stride, padding, dilation) == size


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("groups", (1, 2))
@pytest.mark.parametrize("dilation", (1, (2, 1)), ids=str)
@pytest.mark.parametrize("padding", (0, 1, (1, 0)), ids=str)
@pytest.mark.parametrize("kernel", (1, 2, 3, (3, 2)), ids=str)
def test_transposed_is_a_convolution_of_the_padded_input(device, kernel, padding, dilation, groups, dtype):
    """Stride 1: pad by dilation*(kernel - 1) - padding, flip the taps, exchange each group's channels, convolve."""
    kernel, padding, dilation = (v if isinstance(v, tuple) else (v, v) for v in (kernel, padding, dilation))
    y = torch.randint(-9, 10, (2, 4, 5, 6), device=device).to(dtype)
    w = torch.randint(-9, 10, (4, 3, *kernel), device=device).to(dtype)
    transposed = convx.conv_transpose2d(y, w, None, 1, padding, 0, groups, dilation)
    flipped = w.flip(2, 3).unflatten(0, (groups, 4 // groups)).transpose(1, 2).flatten(0, 1)
    border = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    padded = torch.nn.functional.pad(y, (border[1], border[1], border[0], border[0]))  # crops where negative
    assert torch.count_nonzero(transposed) > transposed.numel() // 2
    assert torch.equal(transposed, convx.conv2d(padded, flipped, None, 1, 0, dilation, groups))
