"""convx.layers: what convert swaps, what it leaves alone and why; and convert's own text, which says the same."""

import sys

import pytest
import torch
from counting import count_calls, ran_on_convx
from torch import nn
from twins import fill, integers

import convx

pytestmark = pytest.mark.filterwarnings(
    "ignore:Lazy modules are a new feature",
    "ignore:torch.quantize_per_tensor",
    "ignore:.*torch.jit.*:DeprecationWarning",
)

X = integers(2, 4, 7, 6)


class Padded(nn.Conv2d):
    """Changes the constructor alone."""

    def __init__(self, inputs, outputs, kernel=3, **kwargs):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Doubling(nn.ConvTranspose2d):
    """Changes the constructor alone."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(inputs, outputs, 2, stride=2, **kwargs)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Shifted(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x + 1, weight, bias)


class ScaledTransposed(nn.ConvTranspose2d):
    def forward(self, x, output_size=None):
        return super().forward(x, output_size) * 2


class LazyPadded(nn.LazyConv2d):
    """Becomes nn.Conv2d, or what it says, with its first input."""


CONSTRUCTORS = {
    "dense": lambda: Padded(4, 6),
    "depthwise": lambda: Padded(4, 8, 5, groups=4),
    "transposed": lambda: Doubling(4, 6),
    "transposed-depthwise": lambda: Doubling(4, 8, groups=4),
}


@pytest.mark.parametrize("kind", CONSTRUCTORS)
def test_subclasses_that_change_the_constructor_alone(kind, device):
    layer = fill(CONSTRUCTORS[kind]()).to(device)
    cls, x = type(layer), X.to(device)
    assert convx.layers(layer) == [("", cls.__name__, False, "")]
    expected = layer(x)
    convx.convert(layer, quiet=True)
    assert isinstance(layer, cls) and convx.layers(layer) == [("", cls.__name__, True, "")]
    with count_calls() as calls:
        assert torch.equal(layer(x), expected)
    assert ran_on_convx(calls)
    assert type(convx.revert(layer, quiet=True)) is cls and torch.equal(layer(x), expected)


def everything():
    """Name: (layer, why convert leaves it alone)."""
    from torch.ao.nn import qat, quantized
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import get_default_qat_qconfig

    replaced = nn.ConvTranspose2d(4, 6, 3)
    replaced.forward = lambda x: x
    own = "has a forward of its own"
    return {
        "conv": (nn.Conv2d(4, 6, 3), ""),
        "depthwise": (nn.Conv2d(4, 4, 3, groups=4), ""),
        "transposed": (nn.ConvTranspose2d(4, 6, 3), ""),
        "convx's": (convx.Conv2d(4, 6, 3), ""),
        "padded": (Padded(4, 6), ""),
        "scaled": (Scaled(4, 6, 3), f"Scaled {own}"),
        "shifted": (Shifted(4, 6, 3), f"Shifted {own}"),
        "scaled transposed": (ScaledTransposed(4, 6, 3), f"ScaledTransposed {own}"),
        "lazy": (LazyPadded(6, 3), "LazyPadded is still lazy"),
        "replaced": (replaced, "its forward was replaced on the object"),
        "quantized": (quantized.Conv2d(4, 6, 3), "Conv2d is quantized"),
        "quantized transposed": (quantized.ConvTranspose2d(4, 6, 3), "ConvTranspose2d is quantized"),
        "dynamic": (dynamic.Conv2d(4, 6, 3), "Conv2d is quantized"),
        "aware": (qat.Conv2d(4, 6, 3, qconfig=get_default_qat_qconfig("fbgemm")), f"Conv2d {own}"),
        "scripted": (torch.jit.script(nn.Conv2d(4, 6, 3)), "Conv2d compiled by torch.jit"),
    }


def test_every_layer_and_why(capsys):
    found = everything()
    others = {"one": nn.Conv1d(4, 6, 3), "three": nn.Conv3d(4, 6, 3), "norm": nn.BatchNorm2d(4)}
    model = nn.ModuleDict({n: layer for n, (layer, _) in found.items()} | others)
    classes = {n: type(m) for n, m in model.items()}
    before = convx.layers(model)
    assert [(layer.name, layer.left_because) for layer in before] == [(n, why) for n, (_, why) in found.items()]
    assert [layer.name for layer in before if layer.on_convx] == ["convx's"] and convx.count(model) == 1
    assert before[0] == convx.Layer("conv", "Conv2d", False, "")

    assert convx.convert(model) is model
    said = capsys.readouterr().err
    left = {n: why for n, (_, why) in found.items() if why}
    assert said.splitlines() == [
        f"convx: converted 4 of {4 + len(left)} layers",
        *(f"  left alone: {n} ({why})" for n, why in left.items()),
    ]
    assert [layer.name for layer in convx.layers(model) if layer.on_convx] == [n for n in found if n not in left]
    assert {n: type(m) for n, m in model.items() if n in left or n in others} == {
        n: classes[n] for n in (*left, *others)
    }

    convx.convert(model)
    assert capsys.readouterr().err.startswith(f"convx: converted 0 of {len(left)} layers\n")
    convx.revert(model)
    assert capsys.readouterr().err == "convx: reverted 5 layers\n"  # and convx's own, from the start
    assert convx.count(model) == 0
    assert [(r.kind, r.left_because) for r in convx.layers(model)] == [(b.kind, b.left_because) for b in before]


def test_a_shared_layer_is_named_once_and_the_model_may_be_one(capsys):
    layer = Scaled(4, 6, 3)
    assert [row.name for row in convx.layers(nn.Sequential(layer, layer))] == ["0"]
    convx.convert(layer)
    assert "left alone: (the model itself) (Scaled has a forward of its own)" in capsys.readouterr().err


def test_devices_without_kernels(monkeypatch, capsys):
    """As of a machine whose GPU convx was not built for: such layers stay torch's, the others are converted."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 3, device="meta"))
    monkeypatch.setattr(sys.modules["convx.convert"], "_has_kernels", lambda device: device == "cpu")
    convx.convert(model)
    assert "left alone: 1 (on meta, for which convx has no kernels)" in capsys.readouterr().err
    assert [type(m) for m in model] == [convx.Conv2d, nn.ConvTranspose2d]
    monkeypatch.undo()
    convx.convert(model)
    assert [type(m) for m in model] == [convx.Conv2d, convx.ConvTranspose2d]


def test_scripted_models_are_named_and_still_run(capsys):
    model = torch.jit.script(nn.Sequential(fill(nn.Conv2d(4, 6, 3)), fill(nn.ConvTranspose2d(6, 4, 3))))
    expected = model(X)
    convx.convert(model)
    said = capsys.readouterr().err
    assert "converted 0 of 2" in said and "0 (Conv2d compiled by torch.jit)" in said
    assert torch.equal(model(X), expected)
