"""convert and revert: what is swapped, what stays the very same object, and what is left alone."""

import copy
import gc
import pickle
import re
import weakref

import pytest
import torch
from counting import count_calls, ran_on_convx
from process import run_python
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from twins import integers

import convx

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


class Scaled(nn.Conv2d):
    """A user's class that changes the constructor alone."""

    def __init__(self, channels, scale=2.0):
        super().__init__(channels, channels, 3, padding=1)
        self.scale = scale
        self.register_buffer("seen", torch.zeros(()))

    def extra_repr(self):
        return f"{super().extra_repr()}, scale={self.scale}"

    def double_scale(self):
        self.scale *= 2
        return self


class ScaledTwice(Scaled):
    """And one on top of it."""


class ScaledTransposed(nn.ConvTranspose2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 2, stride=2)


class Standardised(nn.Conv2d):
    """Weight standardisation: a forward of its own."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w, self.bias)


class Circular(nn.Conv2d):
    """Another way to compute something else."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x.roll(1, -1), weight, bias)


class Mixin:
    def forward(self, x):
        return super().forward(x) + 1


class Mixed(Mixin, nn.Conv2d):
    """A forward that comes from another base."""


class Net(nn.Module):
    """One of everything, some nested, one shared."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), Scaled(4))
        self.shared = self.block[0]
        self.up = nn.ModuleDict({"a": nn.ConvTranspose2d(4, 3, 2, stride=2), "b": ScaledTransposed(3)})
        self.other = nn.ModuleList(
            [nn.Conv1d(2, 2, 1), nn.Conv3d(2, 2, 1), nn.ConvTranspose1d(2, 2, 1), nn.Linear(2, 2)]
        )

    def forward(self, x):
        return self.up["b"](self.up["a"](self.shared(self.block(self.first(x)))))


LAYERS = 5  # first, block.0 (also shared), block.3, up.a, up.b
X = integers(2, 3, 8, 8)


def exact(model):
    """Small integers as parameters, so that results are exact whichever library computes them."""
    for i, p in enumerate(model.parameters()):
        p.data = integers(*p.shape, seed=i).sign().to(p.dtype)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-30  # with the initial statistics it multiplies by exactly 1; torch 2.11 refuses 0
    return model.eval()


def layers(model):
    return [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]


def test_converted_model_runs_on_convx_with_the_same_result():
    net = exact(Net())
    x = X.clone().requires_grad_()
    expected = net(x)
    grads = torch.autograd.grad(expected.sum(), [x, *net.parameters()], allow_unused=True)
    assert convx.convert(net) is net
    with count_calls() as calls:
        out = net(x)
        again = torch.autograd.grad(out.sum(), [x, *net.parameters()], allow_unused=True)
    assert ran_on_convx(calls) and calls["convx.forward"] > 0 and calls["convx.grad_input"] > 0
    assert expected.any() and torch.equal(out, expected)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_says_how_many(capsys):
    """Once each, shared ones too, on one line; nothing if quiet; and only what was not converted before."""
    net = Net()

    def said():
        captured = capsys.readouterr()
        return captured.out + captured.err

    convx.convert(net)
    assert re.search(rf"\b{LAYERS}\b", line := said()) and line.count("\n") == 1
    assert convx.count(net) == LAYERS
    convx.convert(net)
    assert re.search(r"\b0\b", said())
    convx.revert(net)
    assert re.search(rf"\b{LAYERS}\b", line := said()) and line.count("\n") == 1
    convx.revert(convx.convert(net, quiet=True), quiet=True)
    assert said() == "" and convx.count(net) == 0


def test_everything_on_a_layer_stays_the_same_object():
    net = Net()
    events = []
    for layer in layers(net):
        layer.register_forward_hook(lambda m, args, out: events.append(type(m).__name__))
        layer.register_full_backward_hook(lambda m, gin, gout: events.append("backward"))
        layer.note = object()
        layer.weight.note = object()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {id(m): (m, dict(m.__dict__)) for m in net.modules()}
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for change in (convx.convert, convx.revert, convx.convert):
        change(net, quiet=True)
        assert {id(m) for m in net.modules()} == before.keys()
        for m, attributes in before.values():
            assert m.__dict__.keys() == attributes.keys()
            assert all(m.__dict__[k] is v for k, v in attributes.items() if not isinstance(v, (list, tuple))), m
        assert all(p is parameters[n] for n, p in net.named_parameters()) and parameters
        assert all(b is buffers[n] for n, b in net.named_buffers()) and "block.3.seen" in buffers
        assert net.shared is net.block[0]
    net(X.clone().requires_grad_()).sum().backward()
    assert events.count("backward") == 6 and len(events) == 12  # the shared layer runs twice
    old = net.first.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net.first.weight, old)


def test_only_the_right_classes_are_swapped():
    net = convx.convert(Net(), quiet=True)
    assert type(net.first) is convx.Conv2d and type(net.up["a"]) is convx.ConvTranspose2d
    assert isinstance(net.block[3], (Scaled)) and isinstance(net.block[3], convx.Conv2d)
    assert isinstance(net.up["b"], ScaledTransposed) and isinstance(net.up["b"], convx.ConvTranspose2d)
    assert [type(m) for m in net.other] == [nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.Linear]
    assert type(net.block[1]) is nn.BatchNorm2d


def test_revert_restores_the_exact_classes():
    net = Net()
    net.extra = nn.ModuleList([ScaledTwice(2), convx.Conv2d(2, 2, 1)])
    classes = [type(m) for m in net.modules()]
    expected = repr(net)
    convx.convert(net, quiet=True)
    assert repr(net) == expected, "names, not modules, are shown: repr stays"
    convx.revert(net, quiet=True)
    # a layer that was convx's from the start becomes torch's: afterwards nothing runs on convx
    assert [type(m) for m in net.modules()][:-1] == classes[:-1] and type(net.extra[1]) is nn.Conv2d
    with count_calls() as calls:
        net(X)
    assert calls and not any(name.startswith("convx.") for name in calls)


@pytest.mark.parametrize(("torchs", "ours"), [(nn.Conv2d, convx.Conv2d), (nn.ConvTranspose2d, convx.ConvTranspose2d)])
def test_a_model_that_is_a_layer(torchs, ours):
    layer = exact(torchs(3, 4, 3))
    expected = layer(X)
    assert convx.convert(layer, quiet=True) is layer and type(layer) is ours
    assert torch.equal(layer(X), expected)
    assert convx.revert(layer, quiet=True) is layer and type(layer) is torchs
    assert torch.equal(layer(X), expected)


def test_subclasses_keep_their_own_methods():
    for cls in (Scaled, ScaledTwice):
        layer = exact(cls(3))
        expected = layer(X)
        convx.convert(layer, quiet=True)
        assert isinstance(layer, cls) and type(layer).__name__ == cls.__name__
        assert layer.double_scale().scale == 4 and "scale=4" in repr(layer)
        with count_calls() as calls:
            assert torch.equal(layer(X), expected)
        assert ran_on_convx(calls)
        assert type(convx.revert(layer, quiet=True)) is cls


@pytest.mark.parametrize("cls", [Standardised, Circular, Mixed])
def test_what_computes_something_else_is_left_alone_and_named(cls, capsys):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(cls(3, 4, 3)))
    exact(net)
    expected = net(X)
    convx.convert(net)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "1.0" in said and cls.__name__ in said and re.search(r"\b1\b", said)
    assert type(net[1][0]) is cls and type(net[0]) is convx.Conv2d and convx.count(net) == 1
    assert torch.equal(net(X), expected)


@pytest.mark.parametrize("cls", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_forward_set_on_the_object_is_kept(cls, capsys):
    """As libraries do that move weights or log calls. What it says must be true: either the layer runs on convx
    afterwards, or it is named as left alone."""
    layer = exact(cls(3, 4, 3))
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 2
    expected = layer(X)
    convx.convert(nn.Sequential(layer))
    captured = capsys.readouterr()
    with count_calls() as calls:
        assert torch.equal(layer(X), expected)
    assert ran_on_convx(calls) or ("left alone" in captured.out + captured.err and convx.count(layer) == 0)


def test_lazy_layers():
    """Converted while lazy, they become convx's; reverted before or after, they are torch's."""
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyConvTranspose2d(3, 2))
    convx.convert(net, quiet=True)
    assert [type(m) for m in net] == [convx.LazyConv2d, convx.LazyConvTranspose2d]
    convx.revert(net, quiet=True)
    assert [type(m) for m in net] == [nn.LazyConv2d, nn.LazyConvTranspose2d]
    convx.convert(net, quiet=True)
    with count_calls() as calls:
        net(X)
    assert ran_on_convx(calls) and [type(m) for m in net] == [convx.Conv2d, convx.ConvTranspose2d]
    convx.revert(net, quiet=True)
    assert [type(m) for m in net] == [nn.Conv2d, nn.ConvTranspose2d]
    net = convx.revert(nn.Sequential(nn.LazyConv2d(4, 3)), quiet=True)
    net(X)
    assert type(net[0]) is nn.Conv2d


def test_parametrized_and_pruned_layers():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3), nn.Conv2d(3, 4, 3), Scaled(4)).double()
    parametrizations.weight_norm(net[0])
    parametrizations.orthogonal(net[1])
    prune.l1_unstructured(net[2], "weight", 0.5)
    parametrizations.spectral_norm(net[3])
    net.eval()
    x = X.double()
    expected, keys = net(x), net.state_dict().keys()
    for _ in range(2):
        convx.convert(net, quiet=True)
        assert convx.count(net) == 4 and parametrize.is_parametrized(net[0], "weight")
        assert isinstance(net[0], convx.Conv2d) and isinstance(net[1], convx.ConvTranspose2d)
        assert isinstance(net[3], Scaled) and net.state_dict().keys() == keys
        with count_calls() as calls:
            torch.testing.assert_close(net(x), expected)
        assert ran_on_convx(calls)
        copied = copy.deepcopy(net[:2])  # torch can't copy a pruned layer
        assert convx.count(copied) == 2 and torch.equal(copied(x), net[:2](x))
        convx.revert(net, quiet=True)
        assert convx.count(net) == 0
        assert torch.equal(net(x), expected)
    convx.convert(net, quiet=True)
    for layer in net[:2]:
        parametrize.remove_parametrizations(layer, "weight")
    parametrize.remove_parametrizations(net[3], "weight")
    prune.remove(net[2], "weight")
    assert [type(m) for m in net[:3]] == [convx.Conv2d, convx.ConvTranspose2d, convx.Conv2d]
    assert isinstance(net[3], Scaled) and isinstance(net[3], convx.Conv2d)
    torch.testing.assert_close(net(x), expected)
    convx.revert(net, quiet=True)
    assert [type(m) for m in net] == [nn.Conv2d, nn.ConvTranspose2d, nn.Conv2d, Scaled]


def test_a_parametrization_added_after_converting():
    layer = convx.convert(exact(nn.Conv2d(3, 4, 3)), quiet=True)
    parametrizations.weight_norm(layer)
    with count_calls() as calls:
        out = layer(X)
    assert ran_on_convx(calls)
    convx.revert(layer, quiet=True)
    torch.testing.assert_close(layer(X), out)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d


def test_copies_pickles_and_state_dicts():
    """A converted model copies and pickles, subclasses of the user's included, and stays converted and revertible."""
    net = convx.convert(exact(Net()), quiet=True)
    expected = net(X)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert convx.count(other) == LAYERS and [type(m) for m in other.modules()] == [type(m) for m in net.modules()]
        assert torch.equal(other(X), expected) and other.block[3].scale == 2
        assert not {id(p) for p in other.parameters()} & {id(p) for p in net.parameters()}
        convx.revert(other, quiet=True)
        assert [type(m) for m in other.modules()] == [type(m) for m in Net().modules()]
        assert torch.equal(other(X), expected)
    plain = exact(Net())
    for p in plain.parameters():
        nn.init.zeros_(p)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(X), expected)
    net.load_state_dict(exact(Net()).state_dict())
    assert torch.equal(net(X), expected)


def test_a_pickle_opens_in_a_new_process(tmp_path):
    model = convx.convert(exact(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3))), quiet=True)
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; m = torch.load(sys.argv[1], weights_only=False); import convx; "
        "print(convx.count(m), m(torch.ones(1, 3, 8, 8)).sum().item())"
    )
    done = run_python("-c", code, tmp_path / "model.pt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", str(model(torch.ones(1, 3, 8, 8)).sum().item())]


def test_reverted_layers_work_though_their_attributes_were_set_to_integers():
    net = convx.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3)), quiet=True)
    exact(net)
    net[0].padding, net[0].stride, net[0].padding_mode = 2, 2, "reflect"
    net[1].padding, net[1].stride, net[1].output_padding = 1, 3, 2
    expected, text = net(X), repr(net)
    convx.revert(net, quiet=True)
    assert torch.equal(net(X), expected) and repr(net) == text


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_and_scripted_models_are_left_alone():
    """They hold no torch.nn.Conv2d: nothing to convert, nothing broken. Quantisation-aware layers have own forwards."""
    from torch.ao.nn import qat, quantized
    from torch.ao.quantization import get_default_qat_qconfig

    quantised = quantized.Conv2d(3, 4, 3)
    aware = qat.Conv2d(3, 4, 3, qconfig=get_default_qat_qconfig("fbgemm"))
    net = nn.Sequential(quantised, aware, nn.Conv2d(3, 4, 3))
    convx.convert(net, quiet=True)
    assert [type(m) for m in net] == [quantized.Conv2d, qat.Conv2d, convx.Conv2d] and convx.count(net) == 1


def test_converted_classes_are_made_once_and_models_are_not_kept_alive():
    a, b = Scaled(2), Scaled(2)
    convx.convert(nn.ModuleList([a, b]), quiet=True)
    assert type(a) is type(b)
    gone = weakref.ref(a)
    del a
    gc.collect()
    assert gone() is None


def test_training_continues_where_it_was():
    """Some steps on torch, some on convx, some on torch again, beside the same steps on torch alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 3, 3)).double()
    twin = copy.deepcopy(net)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (net, twin)]
    for step in range(6):
        if step == 2:
            convx.convert(net, quiet=True)
        if step == 4:
            convx.revert(net, quiet=True)
        for model, optimizer in zip((net, twin), optimizers, strict=True):
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
