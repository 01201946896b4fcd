"""torch's tools that take a model apart or put it together: initialisation without memory, other parameters, FX,
fusion, pruning and parametrizations, data parallelism; for dense and depthwise, ordinary and transposed layers.

What they give must be what they give with torch's own layers, to the last bit: parameters are small integers.
"""

import copy
import io
import pickle

import pytest
import torch
from counting import count_calls, ran_on_convx
from kinds import ARGUMENTS, KINDS, layer
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils import convert_conv2d_weight_memory_format, parametrizations, parametrize, prune, stateless
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights
from twins import assert_same_call, fill, integers

import convx

pytestmark = pytest.mark.filterwarnings(
    *("ignore:Lazy modules are a new feature", "ignore:torch.ao.quantization is deprecated"),
    *("ignore:`torch.nn.utils.stateless", "ignore:must run observer", "ignore:.*reduce_range"),
)


@pytest.fixture
def pair(kind, device):
    """convx's layer and torch's, with the same integers."""
    return layer(kind, convx, device), layer(kind, nn, device)


@pytest.fixture
def x(device):
    return integers(2, 4, 7, 6).to(device)


# ---- parameters: none, somebody else's, of another kind ----


@KINDS
def test_meta_device_and_to_empty(kind, device, x):
    name, args, others = ARGUMENTS[kind]
    with torch.device("meta"):
        ours = getattr(convx, name)(*args, **others)
    expected = layer(kind, nn, device)
    assert ours.weight.is_meta and ours(x.to("meta")).shape == expected(x).shape
    with pytest.raises(NotImplementedError, match="to_empty"):
        ours.to(device)
    ours.to_empty(device=device)
    ours.reset_parameters()
    assert ours.weight.isfinite().all() and ours.weight.any()
    ours.load_state_dict(expected.state_dict())
    assert_same_call(ours, expected, x)


@KINDS
def test_skip_init(kind, pair, x, device):
    name, args, others = ARGUMENTS[kind]
    ours = nn.utils.skip_init(getattr(convx, name), *args, **others, device=device)
    assert type(ours) is type(pair[0]) and ours.weight.device == x.device
    assert_same_call(fill(ours).to(device), pair[1], x)


@KINDS
@pytest.mark.parametrize("whole", [False, True], ids=["parameters", "swapped tensors"])
def test_load_state_dict_by_assignment(kind, pair, x, whole):
    """assign=True, and with tensors that are swapped rather than written to, before and after a backward."""
    ours, torchs = pair
    state = {n: p.detach() * 2 for n, p in torchs.state_dict().items()}
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(whole)
    try:
        ours(x).sum().backward()
        ours.zero_grad()
        for layer in (ours, torchs):
            layer.load_state_dict(state, assign=True)
        assert whole or ours.weight.data_ptr() == state["weight"].data_ptr()
        assert_same_call(ours, torchs, x)
        for layer in (ours, torchs):
            layer.double()
        assert ours.weight.dtype == torch.float64
        assert_same_call(ours, torchs, x.double())
        assert_same_call(convx.convert(torchs, quiet=True), convx.revert(ours, quiet=True), x.double())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@KINDS
def test_swapping_keeps_the_parameters_objects(kind, pair, x):
    """The reason for that switch: references that an optimizer holds stay right."""
    ours, torchs = pair
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        weight = ours.weight
        ours.double(), torchs.double()
        assert ours.weight is weight and weight.dtype == torch.float64
        convx.convert(ours, quiet=True).float(), torchs.float()
        assert ours.weight is weight
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_same_call(ours, torchs, x)


@KINDS
def test_functional_call_and_stateless(kind, pair, x):
    ours, torchs = pair
    others = {n: p.detach() * 3 - 1 for n, p in ours.named_parameters()}
    expected = functional_call(torchs, others, x)
    with count_calls() as calls:
        assert torch.equal(functional_call(ours, others, x), expected)
        assert torch.equal(stateless.functional_call(ours, others, x), expected)
    assert ran_on_convx(calls) and torch.equal(ours(x), torchs(x)) and not torch.equal(ours(x), expected)


@KINDS
def test_an_ensemble_of_layers(kind, pair, x):
    """stack_module_state and vmap: one call of the kernel for all."""
    ours = pair[0]
    layers = [ours, fill(copy.deepcopy(ours), seed=5).to(x.device)]
    parameters, buffers = stack_module_state(layers)
    with count_calls() as calls:
        out = torch.vmap(lambda p, b: functional_call(ours, (p, b), x))(parameters, buffers)
    assert ran_on_convx(calls) and sum(calls.values()) == 1
    assert torch.equal(out, torch.stack([layer(x) for layer in layers]))


@KINDS
def test_weights_in_channels_last(kind, pair, x):
    ours, torchs = (convert_conv2d_weight_memory_format(m, torch.channels_last) for m in pair)
    assert (
        ours.weight.is_contiguous(memory_format=torch.channels_last) and ours.weight.stride() == torchs.weight.stride()
    )
    assert_same_call(ours, torchs, x)
    assert ours(x).stride() == torchs(x).stride()


@KINDS
def test_hooks_on_every_module(kind, pair, x):
    """Global hooks, and backward hooks that change gradients."""
    seen = []
    handles = [
        nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__)),
        nn.modules.module.register_module_full_backward_hook(lambda m, gin, gout: seen.append(gin[0].shape)),
    ]
    try:
        results = []
        for layer in pair:
            layer.register_full_backward_hook(lambda m, gin, gout: (gin[0] * 2,))
            layer.register_full_backward_pre_hook(lambda m, gout: (gout[0] * 3,))
            layer.weight.register_hook(lambda g: g + 1)
            leaf = x.clone().requires_grad_()
            layer(leaf).sum().backward()
            results.append([leaf.grad, layer.weight.grad, layer.bias.grad])
    finally:
        for handle in handles:
            handle.remove()
    assert seen[:2] == seen[2:] and len(seen) == 4 and seen[0] == ARGUMENTS[kind][0]
    assert all(map(torch.equal, *results))


@KINDS
def test_data_parallel(kind, pair, x):
    """On one GPU, or none, it is the module itself; its replicas are made as on many."""
    ours, torchs = pair
    wrapped = nn.DataParallel(ours)
    assert list(wrapped.state_dict()) == ["module.weight", "module.bias"]
    assert torch.equal(wrapped(x), torchs(x))
    replica = ours._replicate_for_data_parallel()
    assert type(replica) is type(ours)
    replica.weight, replica.bias = ours.weight * 2, ours.bias * 2
    assert torch.equal(replica(x), 2 * torchs(x))


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("groups", [1, 4])
def test_lazy_layers_convert_at_any_time(transposed, groups, device, x):
    """Before and after the first input, and with what was loaded in between."""
    torchs = nn.LazyConvTranspose2d if transposed else nn.LazyConv2d
    becomes = convx.ConvTranspose2d if transposed else convx.Conv2d
    expected = torchs(8, 3, groups=groups, device=device)
    expected(x)
    fill(expected).to(device)
    for convert_first in (True, False):
        layer = torchs(8, 3, groups=groups, device=device)
        if convert_first:
            convx.convert(layer, quiet=True)
        layer.load_state_dict(expected.state_dict())
        layer(x)
        assert type(convx.convert(layer, quiet=True)) is becomes
        assert_same_call(layer, expected, x)
        assert convx.layers(layer) == [("", becomes.__name__, True, "")]


# ---- FX, fusion, quantization ----


@KINDS
def test_symbolic_trace(kind, pair, x):
    """A traced model is code: it copies, pickles and recompiles, and computes on convx."""
    model = nn.Sequential(pair[0], nn.ReLU())
    traced = torch.fx.symbolic_trace(model)
    buffer = io.BytesIO()
    torch.save(traced, buffer)
    buffer.seek(0)
    copies = copy.deepcopy(traced), pickle.loads(pickle.dumps(traced)), torch.load(buffer, weights_only=False)
    expected = pair[1](x).relu()
    for graph in (traced, *copies):
        graph.recompile()
        graph.graph.lint()
        with count_calls() as calls:
            assert torch.equal(graph(x), expected)
        assert ran_on_convx(calls)
    assert "convx" in traced.code and traced.state_dict().keys() == model.state_dict().keys()
    assert torch.fx.Interpreter(traced).run(x).equal(model(x))


def trained_norm(channels, device):
    """A batch norm in evaluation mode that isn't the identity; all powers of two (eps is lost beside them), so that
    fusing is exact."""
    norm = nn.BatchNorm2d(channels, eps=1e-30).to(device).eval()
    steps = torch.arange(channels, device=device)
    with torch.no_grad():
        norm.running_mean.copy_(steps - 2.0)
        norm.running_var.copy_(4.0 ** (steps % 3))
        norm.weight.copy_(2.0 ** (steps % 2))
        norm.bias.copy_(1.0 - steps)
    return norm


@KINDS
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_fusing_with_batch_norm(kind, pair, x, bias):
    """fuse_conv_bn_eval copies the layer, which stays convx's. (Of a grouped transposed layer it multiplies a weight of
    C/G output channels by C factors: it can't fuse those, torch's own neither.)"""
    ours, torchs = (m.eval() for m in pair)
    if not bias:
        ours.bias = torchs.bias = None
    transpose = isinstance(ours, nn.ConvTranspose2d)
    norm = trained_norm(ours.out_channels, x.device)
    if transpose and ours.groups > 1:
        for layer in pair:
            with pytest.raises(RuntimeError):
                fuse_conv_bn_eval(layer, norm, transpose)(x)
        return
    fused, expected = (fuse_conv_bn_eval(m, norm, transpose) for m in pair)
    assert type(fused) is type(ours) and fused is not ours
    with torch.no_grad(), count_calls() as calls:
        out = fused(x)
    assert ran_on_convx(calls) and torch.equal(out, expected(x)) and torch.equal(out, norm(torchs(x)))
    weight, _ = fuse_conv_bn_weights(
        ours.weight, ours.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transpose
    )
    assert torch.equal(weight, fused.weight)


@KINDS
def test_quantization_of_a_reverted_model(kind, pair):
    """torch.ao.quantization looks for torch's exact classes: a model that convx trained is reverted first, and then all
    is as if it had always been torch's."""
    from torch.ao import quantization

    if isinstance(pair[0], nn.ConvTranspose2d):
        kinds = [nn.Sequential(copy.deepcopy(m), nn.ReLU()).eval().cpu() for m in pair]
        names = None
    else:
        kinds = [
            nn.Sequential(copy.deepcopy(m), trained_norm(m.out_channels, "cpu"), nn.ReLU()).eval().cpu() for m in pair
        ]
        names = ["0", "1", "2"]
    x, results = integers(2, 4, 7, 6), []
    for model in kinds:
        convx.revert(model, quiet=True)
        if names:
            model = quantization.fuse_modules(model, names)
            assert type(model[0]) is torch.ao.nn.intrinsic.ConvReLU2d
        model = nn.Sequential(quantization.QuantStub(), *model, quantization.DeQuantStub()).eval()
        model.qconfig = quantization.default_qconfig
        quantization.prepare(model, inplace=True)
        model(x)
        quantization.convert(model, inplace=True)
        results.append(model(x))
        assert "quantized" in type(model[1]).__module__
        assert convx.layers(convx.convert(model, quiet=True))[0].left_because.endswith("is quantized")
    assert results[0].any() and torch.equal(*results)


@KINDS
def test_fusing_passes_leave_converted_layers_in_order(kind, pair, x):
    """FX's own fusion pass knows torch's classes alone; it may do nothing with convx's, but nothing wrong."""
    from torch.fx.experimental.optimization import fuse

    model = nn.Sequential(pair[0], trained_norm(pair[0].out_channels, x.device), nn.ReLU()).eval()
    expected = model(x)
    assert torch.equal(fuse(model)(x), expected)


# ---- parametrizations and pruning ----


def weight_norm(layer):
    return parametrizations.weight_norm(layer)


def spectral_norm(layer):
    torch.manual_seed(2)
    return parametrizations.spectral_norm(layer)


def own(layer):
    class Symmetric(nn.Module):
        def forward(self, w):
            return w + w.flip(-1)

    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned(layer):
    prune.ln_structured(layer, "weight", amount=1, n=2, dim=0)
    prune.l1_unstructured(layer, "bias", amount=1)
    return layer


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, own, pruned], ids=lambda f: f.__name__)
@KINDS
def test_wrapped_weights(kind, pair, x, wrap):
    """Converted before and after wrapping, then unwrapped: what convx computes on is the same weight."""
    layers = []
    for convert_first in (True, False):
        torchs = layer(kind, nn, x.device)
        if convert_first:
            convx.convert(torchs, quiet=True)
        layers.append(convx.convert(wrap(torchs).eval(), quiet=True))
    expected, plain = wrap(pair[1]).eval(), pair[0]
    with torch.no_grad():
        plain.weight.copy_(expected.weight), plain.bias.copy_(expected.bias)
    for ours in layers:
        assert convx.count(ours) == 1 and ours.state_dict().keys() == expected.state_dict().keys()
        with count_calls() as calls:
            out = ours(x)
        assert ran_on_convx(calls) and torch.equal(out, plain(x))
        out.sum().backward()
        assert all(p.grad is not None for p in ours.parameters())
