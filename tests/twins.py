"""Pairs of layers, convx's and torch's, with the same small integers as parameters: what they compute is exact, and so
must be equal to the last bit, outputs and gradients.
"""

import pytest
import torch
from counting import count_calls, ran_on_convx
from torch import nn

import convx

PAIRS = [
    (convx.Conv2d, nn.Conv2d),
    (convx.ConvTranspose2d, nn.ConvTranspose2d),
    (convx.LazyConv2d, nn.LazyConv2d),
    (convx.LazyConvTranspose2d, nn.LazyConvTranspose2d),
]
EAGER = pytest.mark.parametrize(("ours", "torchs"), PAIRS[:2])
ALL = pytest.mark.parametrize(("ours", "torchs"), PAIRS)


def integers(*size, dtype=torch.float32, seed=0):
    return torch.randint(-4, 5, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def fill(layer, seed=1):
    """Small integers as parameters, so that results are exact."""
    for i, p in enumerate(layer.parameters()):
        p.data = integers(*p.shape, seed=seed + i).to(p.dtype)
    return layer


def twins(ours, torchs, *args, **kwargs):
    """A layer of each, with the same integer parameters."""
    return fill(ours(*args, **kwargs)), fill(torchs(*args, **kwargs))


def assert_same_call(ours, torchs, x, *args, **kwargs):
    """Equal outputs and equal gradients, sizes and layouts, and ours run on convx."""
    x = x.clone().requires_grad_()
    with count_calls() as calls:
        actual = ours(x, *args, **kwargs)
    assert ran_on_convx(calls)
    expected = torchs(x, *args, **kwargs)
    assert expected.any() and torch.equal(actual, expected) and actual.dtype == expected.dtype
    y = integers(*expected.shape, seed=9).to(expected.dtype)
    grads = []
    for out, layer in ((actual, ours), (expected, torchs)):
        parameters = [p for _, p in sorted(layer.named_parameters())]
        grads.append(torch.autograd.grad(out, [x, *parameters], y))
    assert all(map(torch.equal, *grads))
