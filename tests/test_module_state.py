"""The layers as objects: state_dict, copies and pickles, lazy layers, hooks, parametrizations, and torch's tools that
take a layer apart.
"""

import copy
import io
import pickle
import typing
from importlib import resources

import pytest
import torch
from counting import count_calls, ran_on_convx
from process import run_python
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from twins import ALL, EAGER, assert_same_call, fill, integers, twins

import convx

pytestmark = pytest.mark.filterwarnings(
    "ignore:Lazy modules are a new feature", "ignore:`torch.nn.utils.weight_norm` is deprecated"
)
X = integers(2, 4, 6, 5)


# ---- state_dict, copies, pickles ----


@EAGER
def test_state_dict_both_ways(ours, torchs):
    a, b = ours(4, 6, 3), fill(torchs(4, 6, 3))
    assert a.state_dict().keys() == b.state_dict().keys()
    assert not torch.equal(a.weight, b.weight)
    assert a.load_state_dict(b.state_dict()).missing_keys == []
    assert_same_call(a, b, X)
    c = torchs(4, 6, 3)
    c.load_state_dict(a.state_dict())
    assert_same_call(a, c, X)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        a.load_state_dict(torchs(4, 6, 5).state_dict())


def copies(layer):
    yield copy.deepcopy(layer)
    yield pickle.loads(pickle.dumps(layer))
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    yield torch.load(buffer, weights_only=False)


@EAGER
def test_deepcopy_pickle_and_save(ours, torchs):
    """The class, the parameters and the changed attributes survive, and nothing is shared with the original."""
    a, b = twins(ours, torchs, 4, 6, 3)
    a.padding, b.padding = 1, (1, 1)
    expected = b(X)
    for layer in copies(a):
        assert type(layer) is ours and layer.padding == 1
        assert_same_call(layer, b, X)
        with torch.no_grad():
            layer.weight.zero_()
    assert torch.equal(a(X), expected)


@EAGER
def test_saved_state_dict_loads_with_weights_only(ours, torchs, tmp_path):
    a, b = ours(4, 6, 3), torchs(4, 6, 3)
    torch.save(a.state_dict(), tmp_path / "layer.pt")
    b.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


@EAGER
def test_a_saved_layer_opens_in_a_new_process(ours, torchs, tmp_path):
    layer = fill(ours(4, 6, 3))
    torch.save(layer, tmp_path / "layer.pt")
    code = (
        "import sys, torch; m = torch.load(sys.argv[1], weights_only=False); "
        "print(type(m).__module__.split('.')[0], type(m).__name__, m(torch.ones(1, 4, 5, 5)).sum().item())"
    )
    done = run_python("-c", code, tmp_path / "layer.pt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["convx", ours.__name__, str(layer(torch.ones(1, 4, 5, 5)).sum().item())]


@EAGER
def test_to_and_apply(ours, torchs):
    a, b = twins(ours, torchs, 4, 6, 3)
    for layer in (a, b):
        layer.double().requires_grad_(False).eval()
    assert a.weight.dtype == torch.float64 and not a.training and not a(X.double()).requires_grad
    a.requires_grad_(), b.requires_grad_()
    assert_same_call(a.float(), b.float(), X)
    empty = a.to_empty(device="meta")
    assert empty is a and a(X.to("meta")).is_meta
    assert a.to_empty(device="cpu").weight.shape == b.weight.shape


@EAGER
def test_share_memory_and_inference_mode(ours, torchs):
    a, b = twins(ours, torchs, 4, 6, 3)
    a.share_memory()
    assert_same_call(a, b, X)
    with torch.inference_mode():
        assert torch.equal(a(X), b(X))
        made_inside = a(X)
    with pytest.raises(RuntimeError, match="inference tensor"):
        made_inside.mul_(a.bias[:, None, None])


# ---- lazy layers ----

LAZY = pytest.mark.parametrize(
    ("lazy", "torchs", "becomes"),
    [
        (convx.LazyConv2d, nn.LazyConv2d, convx.Conv2d),
        (convx.LazyConvTranspose2d, nn.LazyConvTranspose2d, convx.ConvTranspose2d),
    ],
)


@LAZY
@pytest.mark.parametrize("size", [(2, 4, 6, 5), (4, 6, 5)], ids=["batch", "unbatched"])
def test_lazy_layers_become_ours(lazy, torchs, becomes, size):
    """Before: uninitialized parameters, in the state_dict too. After the first input: a plain layer of convx."""
    torch.manual_seed(5)
    a = lazy(6, 3, stride=2, groups=2)
    torch.manual_seed(5)
    b = torchs(6, 3, stride=2, groups=2)
    assert a.has_uninitialized_params() and repr(a) == repr(b) and lazy.cls_to_become is becomes
    assert a.state_dict().keys() == b.state_dict().keys()
    x = integers(*size)
    with count_calls() as calls:
        torch.manual_seed(6)
        out = a(x)
    assert ran_on_convx(calls)
    torch.manual_seed(6)
    b(x)
    assert type(a) is becomes and not isinstance(a, nn.modules.lazy.LazyModuleMixin)
    assert repr(a) == repr(b) and a.in_channels == 4
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert torch.equal(a(x), out)
    assert_same_call(fill(a), fill(b), x)


@LAZY
def test_lazy_state_dicts(lazy, torchs, becomes):
    """Full into lazy (which makes it full), lazy into lazy, across the libraries; a lazy one refuses work before."""
    full = fill(becomes(4, 6, 3))
    for a in (lazy(6, 3), torchs(6, 3)):
        a.load_state_dict(full.state_dict())
        assert not a.has_uninitialized_params()
        assert torch.equal(a.weight, full.weight) and torch.equal(a(X), full(X))
    a = lazy(6, 3)
    a.load_state_dict(torchs(6, 3).state_dict())
    assert a.has_uninitialized_params()
    with pytest.raises(RuntimeError, match=r"uninitialized parameter|dry-run"):
        full.load_state_dict(a.state_dict())
    assert copy.deepcopy(a).has_uninitialized_params() and pickle.loads(pickle.dumps(a)).has_uninitialized_params()


@LAZY
def test_lazy_layers_in_a_model(lazy, torchs, becomes):
    model = nn.Sequential(lazy(6, 3, bias=False), nn.ReLU(), lazy(3, 2)).to(torch.float64)
    model(X.double())
    assert [type(m) for m in model] == [becomes, nn.ReLU, becomes]
    assert model[2].in_channels == 6 and model[0].bias is None and model[0].weight.dtype == torch.float64


def test_lazy_output_size():
    a = convx.LazyConvTranspose2d(3, 3, stride=2)
    assert a(X, output_size=[14, 12]).shape == (2, 3, 14, 12)
    assert type(a) is convx.ConvTranspose2d


# ---- hooks ----


@EAGER
def test_hooks_run_as_on_torchs(ours, torchs):
    """Forward and backward hooks, pre-hooks and state_dict hooks: the same events with the same shapes."""

    def record(layer):
        events = []
        layer.register_forward_pre_hook(lambda m, args: events.append(("pre", args[0].shape)))
        layer.register_forward_hook(lambda m, args, out: events.append(("forward", out.shape)))
        layer.register_forward_hook(lambda m, args, out: out * 2)
        layer.register_full_backward_pre_hook(lambda m, gout: events.append(("backward pre", gout[0].shape)))
        layer.register_full_backward_hook(lambda m, gin, gout: events.append(("backward", gin[0].shape)))
        layer.register_state_dict_pre_hook(lambda m, prefix, keep: events.append(("state_dict", prefix)))
        layer.weight.register_post_accumulate_grad_hook(lambda p: events.append(("weight", p.grad.shape)))
        x = X.clone().requires_grad_()
        out = layer(x)
        out.sum().backward()
        layer.state_dict()
        return events, out

    a, b = twins(ours, torchs, 4, 6, 3)
    (events, out), (expected, torchs_out) = record(a), record(b)
    assert events == expected and len(events) == 6 and torch.equal(out, torchs_out)


# ---- parametrizations and tools ----


def weight_norm(layer):
    return parametrizations.weight_norm(layer, dim=0)


def spectral_norm(layer):
    torch.manual_seed(2)
    return parametrizations.spectral_norm(layer)


def orthogonal(layer):
    return parametrizations.orthogonal(layer)


def old_weight_norm(layer):
    return nn.utils.weight_norm(layer)


def old_spectral_norm(layer):
    torch.manual_seed(2)
    return nn.utils.spectral_norm(layer)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.ln_structured(layer, "weight", amount=1, n=2, dim=0)
    return layer


@pytest.mark.parametrize(
    "wrap",
    [weight_norm, spectral_norm, orthogonal, old_weight_norm, old_spectral_norm, pruned],
    ids=lambda f: f.__name__,
)
@EAGER
def test_parametrizations(ours, torchs, wrap):
    """The wrapped weight is what is convolved with, gradients flow to its sources, and state_dicts interchange."""
    torch.manual_seed(1)
    a, b = ours(4, 6, 3).double(), torchs(4, 6, 3).double()
    b.load_state_dict(a.state_dict())
    a, b = wrap(a), wrap(b)
    assert isinstance(a, ours) and a.state_dict().keys() == b.state_dict().keys()
    b.load_state_dict(a.state_dict())
    a.eval(), b.eval()  # spectral norm iterates in training
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    with count_calls() as calls:
        out = a(x)
    assert ran_on_convx(calls)
    y, weight = b(x), a.weight
    same = ours(4, 6, 3).double()
    with torch.no_grad():
        same.weight.copy_(weight), same.bias.copy_(a.bias)
    assert torch.equal(out, same(x)) and torch.equal(weight, b.weight)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in a.parameters())
    y.sum().backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@EAGER
def test_parametrizations_can_be_removed(ours, torchs):
    layer = parametrizations.weight_norm(fill(ours(4, 6, 3)))
    assert type(layer) is not ours and isinstance(layer, ours)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is ours
    layer = prune.identity(fill(ours(4, 6, 3)), "weight")
    prune.remove(layer, "weight")
    assert_same_call(layer, fill(torchs(4, 6, 3)), X)


def test_fusing_with_batch_norm():
    """torch.nn.utils.fusion copies the layer and sets its parameters; the copy is still ours."""
    for ours, torchs, transpose in (
        (convx.Conv2d, nn.Conv2d, False),
        (convx.ConvTranspose2d, nn.ConvTranspose2d, True),
    ):
        torch.manual_seed(0)
        layer, norm = ours(4, 6, 3).double().eval(), nn.BatchNorm2d(6).double()
        norm(torch.randn(8, 6, 4, 4, dtype=torch.float64) * 3 + 1)
        norm.eval()
        fused = fuse_conv_bn_eval(layer, norm, transpose)
        assert type(fused) is ours
        twin = torchs(4, 6, 3).double().eval()
        twin.load_state_dict(layer.state_dict())
        expected = fuse_conv_bn_eval(twin, norm, transpose)
        assert torch.equal(fused.weight, expected.weight) and torch.equal(fused.bias, expected.bias)
        torch.testing.assert_close(fused(X.double()), norm(layer(X.double())))


def test_symbolic_tracing():
    """torch.fx sees one call of convx's function for each layer, and the traced model computes the same."""
    model = nn.Sequential(fill(convx.Conv2d(4, 6, 3)), nn.ReLU(), fill(convx.ConvTranspose2d(6, 4, 3, stride=2)))
    traced = torch.fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert called == [convx.conv2d, convx.conv_transpose2d]
    assert torch.equal(traced(X), model(X))


@EAGER
def test_optimizer_step_and_initialisation(ours, torchs):
    a, b = twins(ours, torchs, 4, 6, 3)
    for layer in (a, b):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            layer(X).sum().backward()
            optimizer.step()
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)
    for layer in (a, b):
        torch.manual_seed(4)
        layer.reset_parameters()
        nn.init.orthogonal_(layer.weight)
    assert torch.equal(a.weight, b.weight)


@EAGER
def test_weight_data_changed_without_a_version_bump(ours, torchs):
    """As the seeds do (nn.init on .data): the next call uses the new values, nothing was packed or cached."""
    a, b = twins(ours, torchs, 4, 6, 3)
    assert_same_call(a, b, X)
    for layer in (a, b):
        nn.init.constant_(layer.weight.data, 1)
    assert_same_call(a, b, X)


@ALL
def test_isinstance_of_torchs_classes(ours, torchs):
    """Code that looks for torch's layers finds ours: initialisers, profilers, weight decay groups."""
    layer = ours(6, 3) if "Lazy" in ours.__name__ else ours(4, 6, 3)
    assert isinstance(layer, torchs) and isinstance(layer, torchs.__mro__[1])
    assert isinstance(layer, nn.modules.conv._ConvNd)


def test_typed():
    """The package ships py.typed, and the public functions' hints resolve."""
    assert resources.files("convx").joinpath("py.typed").is_file()
    for function in (convx.conv2d, convx.conv_transpose2d, convx.grad.conv2d_input, convx.grad.conv2d_weight):
        hints = typing.get_type_hints(function)
        assert hints["return"] is torch.Tensor and hints["weight" if "weight" in hints else "input"] is torch.Tensor
    for function in (convx.convert, convx.revert, convx.show_config, convx.algorithms):
        assert "return" in typing.get_type_hints(function)
    assert typing.get_type_hints(convx.show_config)["return"] is str
