"""torch.jit: traced and scripted layers run for other batches and sizes, train, and survive a file.

Both hold a layer as the operator torch.ops.convx.conv2d or .conv_transpose2d (convx/operators.py).
"""

import io

import pytest
import torch
from kinds import KINDS, LAYOUTS, Network, assert_same, images, layer, value_and_gradients
from twins import integers

import convx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
SIZES = ((2, 8, 6), (3, 5, 9), (1, 7, 7))


def traced(module):
    return torch.jit.trace(module, images(2))


def through_a_file(module):
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("make", [traced, torch.jit.script], ids=["trace", "script"])
@LAYOUTS
@KINDS
def test_layers(kind, layout, make, device):
    """Any batch and size, though the trace saw one: outputs, gradients and strides."""
    if device != "cpu" and make is traced:
        pytest.skip("traced on the CPU")
    module = layer(kind, convx, device)
    for again in (make(module), through_a_file(make(module))):
        for size in SIZES:
            x = images(*size, layout=layout, device=device)
            assert_same(value_and_gradients(again, again, x), value_and_gradients(module, module, x))


@pytest.mark.parametrize("make", [traced, torch.jit.script], ids=["trace", "script"])
def test_a_network(make):
    module = Network(convx)
    again = make(module)
    for _ in range(3):  # the first runs profile, a later one is optimised
        for size in ((2, 8, 6), (3, 6, 10)):
            x = images(*size)
            assert_same(value_and_gradients(again, again, x), value_and_gradients(module, module, x))
    assert_same([again(images(1)[0])], [module(images(1)[0])])


def test_graphs_hold_layers():
    graph = str(traced(layer("conv", convx)).inlined_graph)
    assert "convx::conv2d" in graph and "convx::forward" not in graph
    assert "convx::conv_transpose2d" in str(torch.jit.script(layer("transposed", convx)).inlined_graph)


def test_a_script_calls_the_functions():
    @torch.jit.script
    def call(x, w):
        y = convx.conv2d(x, w, stride=2, padding=(1, 0), padding_mode="circular")
        return convx.conv_transpose2d(y, w, None, [2, 1]) + convx.conv2d(x, w, padding="same").sum()

    x, w = integers(2, 3, 6, 5), integers(3, 3, 2, 2, seed=1)
    y = convx.conv2d(x, w, stride=2, padding=(1, 0), padding_mode="circular")
    expected = convx.conv_transpose2d(y, w, None, (2, 1)) + convx.conv2d(x, w, padding="same").sum()
    assert_same([call(x, w)], [expected])


def test_output_size_in_a_script():
    module = layer("transposed-depthwise", convx)
    again, x = torch.jit.script(module), images(2)
    assert_same([again(x, [18, 13])], [module(x, [18, 13])])


def test_autocast_around_a_script():
    module, x = layer("conv", convx), images(2)
    again = torch.jit.script(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same([again(x)], [module(x)])
