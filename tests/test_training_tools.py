"""What torch wraps around training: autocast and GradScaler, checkpointing, deterministic algorithms, inference mode,
anomaly mode, the profiler, FlopCounterMode, CUDA graphs. Each with all kinds of layers, and as torch's layers have it.
"""

import pytest
import torch
from kinds import ARGUMENTS, KINDS, LAYOUTS, Network, assert_same, images, layer, value_and_gradients
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.flop_counter import FlopCounterMode
from twins import integers

import convx

# ---- autocast ----

AUTOCAST = pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)


@AUTOCAST
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@KINDS
def test_autocast_has_torchs_dtypes(kind, dtype, autocast, device):
    """For every dtype of input and parameters: the output's and the gradients' dtypes, or torch's refusal."""

    def dtypes(library):
        module = layer(kind, library, device, dtype=dtype)
        with torch.autocast(device, dtype=autocast):
            return [t.dtype for t in value_and_gradients(module, module, images(2, device=device).to(dtype))]

    assert dtypes(convx) == dtypes(nn)


@AUTOCAST
@KINDS
def test_nested_and_disabled_autocast(kind, autocast, device):
    """Regions inside regions, of the other dtype and disabled; behind each, the one around it holds again.

    Without autocast's cache of weights: torch keeps one for all dtypes, and its own layers fail on that mixture.
    """
    other = torch.float16 if autocast is torch.bfloat16 else torch.bfloat16

    def outputs(library):
        module, x = layer(kind, library, device), images(2, device=device)
        results = []
        with torch.autocast(device, dtype=autocast, cache_enabled=False):
            results.append(module(x))
            with torch.autocast(device, enabled=False):
                results.append(module(x))
                with torch.autocast(device, dtype=other, cache_enabled=False):
                    results.append(module(x))
                results.append(module(x.to(autocast).float()))
            results.append(module(x))
        return [*results, module(x)]

    ours, torchs = outputs(convx), outputs(nn)
    wanted = [autocast, torch.float32, other, torch.float32, autocast, torch.float32]
    assert [t.dtype for t in ours] == [t.dtype for t in torchs] == wanted
    assert all(map(torch.equal, ours, torchs))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_autocast_of_the_other_device_changes_nothing():
    """As torch's layers: only a region of the tensors' own device counts."""
    module, x = layer("conv", convx), images(2)
    with torch.autocast("cuda", dtype=torch.float16, enabled=True):
        assert module(x).dtype == torch.float32


def test_autocast_to_an_unsupported_dtype():
    with pytest.warns(UserWarning, match="autocast"), torch.autocast("cpu", dtype=torch.float64):
        assert layer("conv", convx)(images(2)).dtype == torch.float32


@KINDS
def test_gradient_scaler(kind, device):
    """Scaled, unscaled and stepped: a step like that without scaling; and one with an infinity is left out."""
    modules = [layer(kind, convx, device) for _ in range(3)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in modules]
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    x = images(2, device=device)
    before = [p.detach().clone() for p in modules[2].parameters()]
    for i, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
        with torch.autocast(device, dtype=torch.float16):
            loss = module(x / (0 if i == 2 else 1)).float().sum()
        if i == 0:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert_same(*([p.detach() for p in m.parameters()] for m in modules[:2]))
    assert all(map(torch.equal, modules[2].parameters(), before)) and scaler.get_scale() == 4.0


# ---- checkpointing ----


def after_backward(function, module, x):
    """The function's value at x, and what a backward leaves in .grad, which is all that the older checkpoint allows."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = function(x)
    out.backward(integers(*out.shape, seed=3).to(out))
    return [out, x.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("reentrant", [False, True])
@KINDS
def test_checkpoint(kind, reentrant, device):
    """The same bits, and the forward runs again in the backward."""
    module, x = layer(kind, convx, device), images(2, device=device)
    runs = []
    module.register_forward_pre_hook(lambda *_: runs.append(1))
    got = after_backward(lambda x: checkpoint(module, x, use_reentrant=reentrant), module, x)
    assert len(runs) == 2
    assert_same(got, after_backward(module, module, x))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_of_a_sequence_under_autocast(reentrant):
    """The second forward runs under the autocast of the first."""
    module = nn.Sequential(*(layer(kind, convx) for kind in ("depthwise", "transposed-depthwise", "depthwise")))

    def call(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return checkpoint_sequential(module, 2, x, use_reentrant=reentrant)

    def plain(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module(x)

    assert_same(after_backward(call, module, images(2)), after_backward(plain, module, images(2)))


# ---- modes ----


@KINDS
def test_deterministic_algorithms(kind, device):
    module, x = layer(kind, convx, device), images(2, device=device)
    expected = value_and_gradients(module, module, x)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(value_and_gradients(module, module, x), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@LAYOUTS
@KINDS
def test_inference_mode(kind, layout, device):
    """An inference tensor comes out, eager's numbers in it; and autograd refuses it as it refuses any."""
    module, x = layer(kind, convx, device), images(2, layout=layout, device=device)
    with torch.inference_mode():
        out = module(x)
        assert out.is_inference() and not out.requires_grad
        assert module(images(2, layout=layout, device=device)).is_inference()
    assert_same([out], [module(x)])
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
        layer("depthwise", convx, device)(out[:, :4]).sum().backward()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
@KINDS
def test_anomaly_mode(kind, device):
    """A NaN is found in our node, of this layer; without one, the gradients are the same."""
    module, x = layer(kind, convx, device), images(2, device=device)
    expected = value_and_gradients(module, module, x)
    node = "convx::GradInputBackward" if "transposed" in kind else "convx::ForwardBackward"
    with torch.autograd.detect_anomaly():
        assert_same(value_and_gradients(module, module, x), expected)
        with torch.no_grad():
            module.weight.fill_(torch.nan)
        with pytest.raises(RuntimeError, match=node):
            module(x.requires_grad_()).nan_to_num().sum().backward()


# ---- profiler ----


@KINDS
def test_profiler_names_regions_and_shapes(kind):
    module, x = layer(kind, convx), images(2).requires_grad_()
    with torch.profiler.profile(record_shapes=True) as profile:
        out = module(x)
        out.sum().backward()
    shapes = {}
    for event in profile.events():
        if event.name.startswith("convx::"):
            shapes.setdefault(event.name, event.input_shapes[:2])
    x_size, w_size, y_size = ([*t.shape] for t in (x, module.weight, out))
    first, second = ("grad_input", "forward") if "transposed" in kind else ("forward", "grad_input")
    assert shapes[f"convx::{first}"] == [x_size, w_size]
    assert shapes[f"convx::{second}"] == [y_size, w_size]
    weight_operands = [y_size, x_size] if "transposed" in kind else [x_size, y_size]
    assert shapes["convx::grad_weight"] == weight_operands
    backward = "GradInputBackward" if "transposed" in kind else "ForwardBackward"
    assert any(event.name.endswith(f"convx::{backward}") for event in profile.events())
    assert "convx::grad_weight" in profile.key_averages(group_by_input_shape=True).table()


# ---- FlopCounterMode ----


def counted(module, backward):
    """FLOPs by module and operator group: forward, and backward if asked for."""
    with FlopCounterMode(display=False, depth=4) as counter:
        out = module(images(2).requires_grad_())
        if backward:
            out.sum().backward()
    return counter.get_total_flops(), {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", [*ARGUMENTS, "network"])
def test_flops_are_counted_as_torchs(kind, backward):
    ours, torchs = (Network(library) if kind == "network" else layer(kind, library) for library in (convx, nn))
    assert counted(ours, backward) == counted(torchs, backward)
    assert counted(ours, backward)[0] > 0


def test_flops_of_a_convolution():
    """By hand: two for each multiply-add."""
    module = convx.Conv2d(3, 5, (2, 3), padding=(1, 0), bias=False)
    with FlopCounterMode(display=False) as counter:
        out = module(torch.ones(2, 3, 6, 7))
    assert counter.get_total_flops() == 2 * out.numel() * 3 * 2 * 3


# ---- CUDA graphs ----


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@KINDS
def test_cuda_graphs(kind):
    """A captured training step, replayed on other data."""
    module, x = layer(kind, convx, "cuda"), images(2, device="cuda")
    static = x.clone()

    def step():
        static.grad = None
        return value_and_gradients(module, module, static)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for other in (x, x.flip(0) + 1):
        static.copy_(other)
        graph.replay()
        assert_same(results, value_and_gradients(module, module, other))
