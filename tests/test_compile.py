"""torch.compile: one graph for each layer, training and inference, in both layouts, under autocast, for any batch.

Most tests compile with ``aot_eager``, which traces and partitions as Inductor does but generates no code: what convx
has a part in is the graph. Inductor itself runs a network of all kinds.
"""

import pytest
import torch
from conftest import EXHAUSTIVE
from inductor import needs_compiler
from kinds import KINDS, LAYOUTS, Network, assert_same, images, layer, value_and_gradients
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from twins import integers

import convx
from benchmarks import networks

SIZES = ((2, 8, 6), (3, 8, 6), (5, 8, 6))


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()


def compiled(function, dynamic=None, backend="aot_eager"):
    """The function compiled in one graph, and what counts the graphs."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True, dynamic=dynamic), counter


@pytest.mark.parametrize("dynamic", [None, True])
@LAYOUTS
@KINDS
def test_training(kind, layout, dynamic, device):
    """Outputs, gradients and their strides are eager's, and batches of any size share a graph."""
    module = layer(kind, convx, device)
    function, counter = compiled(module, dynamic)
    for n, h, w in SIZES:
        x = images(n, h, w, layout, device)
        assert_same(value_and_gradients(function, module, x), value_and_gradients(module, module, x))
    assert counter.frame_count == (1 if dynamic else 2)  # by default the second size makes the batch dynamic


@LAYOUTS
@KINDS
def test_inference(kind, layout, device):
    module = layer(kind, convx, device).eval()
    function, counter = compiled(module, dynamic=True)
    with torch.no_grad():
        for n, h, w in SIZES:
            x = images(n, h, w, layout, device)
            assert_same([function(x)], [module(x)])
            assert function(x).is_contiguous(memory_format=layout)
    assert counter.frame_count == 1


@KINDS
def test_any_height_and_width_share_a_graph(kind):
    """No guard says which of them is the larger."""
    module = layer(kind, convx)
    function, counter = compiled(module, dynamic=True)
    for h, w in ((8, 6), (6, 9), (7, 7), (12, 5)):
        assert_same([function(images(2, h, w))], [module(images(2, h, w))])
    assert counter.frame_count == 1


def test_padding_modes_of_any_height_and_width_share_a_graph():
    module = Network(convx)
    function, counter = compiled(module, dynamic=True)
    for h, w in ((8, 6), (6, 10), (8, 8), (12, 4)):
        assert_same([function(images(2, h, w))], [module(images(2, h, w))])
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@KINDS
def test_autocast(kind, dtype, device):
    """Around the call and inside the graph, with a region where it is disabled."""
    module, x = layer(kind, convx, device), images(2, device=device)

    def call(x):
        with torch.autocast(device, dtype=dtype):
            inside = module(x)
            with torch.autocast(device, enabled=False):
                return inside, module(x)

    got = compiled(call)[0](x)
    assert [t.dtype for t in got] == [dtype, torch.float32]
    assert_same(got, call(x))
    function = compiled(module)[0]
    with torch.autocast(device, dtype=dtype):
        assert_same(value_and_gradients(function, module, x), value_and_gradients(module, module, x))


@KINDS
def test_unbatched_and_output_size(kind):
    module, x = layer(kind, convx), images(1)[0]
    assert_same([compiled(module)[0](x)], [module(x)])
    if "transposed" in kind:
        size = [n + (i == 1) for i, n in enumerate(module(x).shape[1:])] if kind == "transposed-depthwise" else None
        assert_same([compiled(lambda x: module(x, size))[0](x)], [module(x, size)])


TRANSFORMS = {
    "grad": lambda f: grad(f, (0, 1)),
    "per-sample grad": lambda f: vmap(grad(lambda x, w: f(x[None], w), (0, 1)), (0, None)),
    "vmap of both": lambda f: lambda x, w: vmap(lambda x, w: f(x[None], w))(x, torch.stack([w, -w])),
    "jvp": lambda f: lambda x, w: jvp(f, (x, w), (x, w)),
    "jacrev": lambda f: jacrev(f, (0, 1)),
    "jacfwd": lambda f: jacfwd(f, (0, 1)),
    "hessian": lambda f: hessian(f, (0, 1)),
}


@pytest.mark.parametrize("function", [convx.conv2d, convx.conv_transpose2d], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_inside_a_graph(name, function):
    """torch.func inside torch.compile: tangents most of all, which Dynamo drops where a Python Function makes them."""
    x, w = integers(2, 2, 3, 3).double(), integers(2, 2, 2, 2, seed=1).double()

    def transformed(function):
        return TRANSFORMS[name](lambda x, w: function(x, w, stride=2, padding=1).pow(3).sum())

    expected, spec = torch.utils._pytree.tree_flatten(transformed(function)(x, w))
    try:
        got, got_spec = torch.utils._pytree.tree_flatten(compiled(transformed(function))[0](x, w))
    except Exception:
        torch._dynamo.reset()
        try:
            compiled(transformed(getattr(torch.nn.functional, function.__name__)))[0](x, w)
        except Exception as error:  # jacfwd in torch 2.11
            pytest.skip(f"torch {torch.__version__} can't compile this of its own: {str(error).splitlines()[0]}")
        raise
    assert got_spec == spec
    assert_same(got, expected)


def test_compiled_autograd():
    """A backward of an eager call in a graph of its own."""
    module, x = Network(convx), images(2)
    expected = value_and_gradients(module, module, x)
    counter = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend=counter, fullgraph=True, dynamic=True)):
        got = value_and_gradients(module, module, x)
        larger = value_and_gradients(module, module, images(3))
    assert_same(got, expected)
    assert_same(larger, value_and_gradients(module, module, images(3)))
    assert counter.frame_count == 1


def test_a_whole_training_step_is_one_graph():
    """The parameters as an argument, as in functional training loops."""
    module, x = Network(convx), images(2)

    def step(parameters, x):
        gradients = grad(lambda p: functional_call(module, p, (x,)).sum())(parameters)
        return {name: p - gradients[name] for name, p in parameters.items()}

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    function, counter = compiled(step)
    got, expected = function(parameters, x), step(parameters, x)
    assert all(torch.equal(got[name], expected[name]) for name in parameters) and counter.frame_count == 1


# ---- Inductor ----


@needs_compiler
def test_inductor_training(device):
    """In both layouts, for any batch, under autocast too: equal to eager where that is exact."""
    module = Network(convx).to(device)
    function = torch.compile(module, fullgraph=True, dynamic=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        for n in (2, 3):
            x = images(n, layout=layout, device=device)
            assert_same(value_and_gradients(function, module, x), value_and_gradients(module, module, x))
    assert torch._dynamo.utils.counters["graph_break"] == {}


@needs_compiler
def test_inductor_inference(device):
    module = Network(convx).to(device).eval()
    function = torch.compile(module, fullgraph=True)
    with torch.inference_mode():
        x = images(2, device=device)
        assert_same([function(x)], [module(x)])
        with torch.autocast(device, dtype=torch.bfloat16):
            got, expected = function(x), module(x)
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.05, atol=1)


@pytest.mark.parametrize("backend", ["aot_eager", *([pytest.param("inductor", marks=needs_compiler)] * EXHAUSTIVE)])
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_converted_networks_train(name, backend):
    """Those of benchmarks/networks.py: the loss and the gradients of a compiled step are those of an eager one."""
    network = networks.NETWORKS[name]
    eager, graph = (networks.trainers(network, 2, 64)["convx"] for _ in range(2))
    graph.model, counter = compiled(graph.model, backend=backend)
    eager.step()
    graph.step()
    assert counter.frame_count == 1
    assert networks.agree({"torch": eager, "convx": graph})
