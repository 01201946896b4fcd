"""torch.export, AOTInductor and ONNX: a network of all kinds of layers leaves Python and computes the same.

An exported program holds layers, with their padding, not primitives of the example's sizes.
"""

import io

import pytest
import torch
from inductor import needs_compiler
from kinds import KINDS, LAYOUTS, Network, assert_same, images, layer
from process import run_python
from torch.export import Dim, export, load, save

import convx

BATCH = {"x": {0: Dim("batch")}}


def targets(program) -> list[str]:
    """The operators of a program that compute a convolution, in order."""
    nodes = (str(n.target) for n in program.graph.nodes if n.op == "call_function")
    return [name for name in nodes if "conv" in name]


def through_a_file(program):
    file = io.BytesIO()
    save(program, file)
    file.seek(0)
    return load(file)


@pytest.fixture(scope="module")
def program():
    return export(Network(convx).eval(), (images(2),), dynamic_shapes=BATCH)


@pytest.mark.parametrize("strict", [False, True])
@LAYOUTS
@KINDS
def test_layers(kind, layout, strict, device):
    """With a dynamic batch, saved, loaded and run: whole layers in the graph, eager's numbers and strides out of it."""
    module = layer(kind, convx, device)
    example = (images(2, layout=layout, device=device),)
    exported = export(module, example, dynamic_shapes=({0: Dim("batch")},), strict=strict)
    name = "convx.conv_transpose2d.default" if "transposed" in kind else "convx.conv2d.default"
    assert targets(exported) == [name]
    again = through_a_file(exported).module()
    for n in (2, 5):
        x = images(n, layout=layout, device=device)
        assert_same([again(x)], [module(x)])


def test_a_network(program):
    exported = through_a_file(program)
    assert (
        targets(exported)
        == ["convx.conv2d.padding", *["convx.conv2d.default"] * 2, "convx.conv2d.padding"]
        + ["convx.conv_transpose2d.default"] * 2
    )
    for n in (1, 2, 5):
        assert_same([exported.module()(images(n))], [Network(convx)(images(n))])


def test_any_height_and_width():
    exported = export(Network(convx), (images(2),), dynamic_shapes={"x": {0: Dim("batch"), 2: Dim.AUTO, 3: Dim.AUTO}})
    for size in ((2, 8, 6), (3, 6, 10), (1, 12, 12)):
        assert_same([exported.module()(images(*size))], [Network(convx)(images(*size))])


def test_decompositions(program):
    """By default to the primitives; to torch's own operators on request."""
    primitives = program.run_decompositions()
    assert targets(primitives) == ["convx.forward.default"] * 4 + ["convx.grad_input.default"] * 2
    torchs = program.run_decompositions(convx.decompositions())
    assert targets(torchs) and all(name.startswith("aten.conv") for name in targets(torchs))
    for n in (2, 3):
        expected = Network(convx)(images(n))
        assert_same([primitives.module()(images(n))], [expected])
        assert_same([torchs.module()(images(n))], [expected])


def test_autocast_is_exported():
    class Mixed(Network):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    module = Mixed(convx)
    exported = export(module, (images(2),))
    for version in (exported, exported.run_decompositions()):
        assert_same([version.module()(images(2))], [module(images(2))])


def test_an_exported_program_trains(program):
    """Its parameters get gradients, as those of the module it came from."""
    module, again = Network(convx), through_a_file(program).module()
    for each in (module, again):
        each(images(3)).square().sum().backward()
    expected = dict(module.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter.grad, expected[name].grad) and parameter.grad.any()


RUN_PACKAGE = """
import sys, torch
{extension}
run = torch._inductor.aoti_load_package(sys.argv[1])
x, expected = torch.load(sys.argv[2])
assert all(torch.equal(run(a), b) for a, b in zip(x, expected)), "another result"
print("equal")
"""
EXTENSIONS = {
    "the package": "import convx",
    "the extension alone": f"torch.ops.load_library({convx._C.__file__!r})",
}


@needs_compiler
def test_aot_inductor(program, tmp_path):
    """The package runs in a process that has convx, or nothing of it but the compiled extension."""
    package = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(tmp_path / "network.pt2"),
        inductor_configs={  # most of the test's time is the C++ compiler's
            "aot_inductor.compile_wrapper_opt_level": "O0",
            "aot_inductor.precompile_headers": False,
        },
    )
    inputs = [images(n) for n in (2, 5)]
    torch.save((inputs, [Network(convx)(x).detach() for x in inputs]), tmp_path / "values.pt")
    for extension in EXTENSIONS.values():
        done = run_python("-c", RUN_PACKAGE.format(extension=extension), package, tmp_path / "values.pt")
        assert done.stdout == "equal\n", done.stderr


# ---- ONNX ----


def onnx_session(model, example, **kwargs):
    """(operators of the graph, a function that runs it) of an ONNX export by torch's exporter."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnxscript: make test installs it")
    runtime = pytest.importorskip("onnxruntime", reason="checking ONNX needs onnxruntime: make test installs it")
    exported = torch.onnx.export(model, example, dynamo=True, verbose=False, **kwargs).model_proto
    session = runtime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return [n.op_type for n in exported.graph.node], lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


LAYER_NODES = ["Conv", "Pad", "Conv", "Pad", "Conv", "Pad", "Conv", "ConvTranspose", "ConvTranspose"]
slow_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@slow_warnings
@pytest.mark.parametrize("from_program", [False, True], ids=["module", "program"])
def test_onnx(from_program, program):
    """Plain Conv and ConvTranspose nodes, with a dynamic batch, that onnxruntime computes as eager does."""
    if from_program:
        operators, run = onnx_session(program.run_decompositions(convx.decompositions()), None)
    else:
        operators, run = onnx_session(Network(convx).eval(), (images(2),), dynamic_shapes=BATCH)
    assert [o for o in operators if o in LAYER_NODES] == LAYER_NODES
    for n in (1, 2, 5):
        assert torch.equal(run(images(n)), Network(convx)(images(n)))


class Several(torch.nn.Module):
    """Layers side by side on one input: one export for all of them. Their results as one line."""

    def __init__(self, library):
        super().__init__()
        shared = {"dilation": (1, 2), "groups": 2}
        layers = [layer(kind, library) for kind in ("conv", "depthwise", "transposed", "transposed-depthwise")]
        for mode in ("zeros", "reflect", "replicate", "circular"):
            for padding in (1, (2, 1), "same", "valid"):
                layers.append(library.Conv2d(4, 2, (4, 3), padding=padding, padding_mode=mode, **shared))
        layers.append(library.ConvTranspose2d(4, 6, 3, padding=(2, 1), bias=False, **shared))
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        return torch.cat([each(x).flatten() for each in self.layers])


@slow_warnings
def test_onnx_of_every_padding():
    module = Several(convx).eval()
    operators, run = onnx_session(module, (images(2),))
    assert operators.count("Conv") == 2 + 16 and operators.count("ConvTranspose") == 3
    torch.testing.assert_close(run(images(2)), module(images(2)))


@slow_warnings
def test_onnx_by_the_older_exporter():
    """torch.onnx.export(dynamo=False), for any batch and size."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="checking ONNX needs onnxruntime: make test installs it")
    pytest.importorskip("onnx", reason="ONNX export needs onnx: make test installs it")
    module, file = layer("transposed", convx).eval(), io.BytesIO()
    torch.onnx.export(module, (images(2),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": [0, 2, 3]})
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    x = images(3, 5, 7)
    assert torch.equal(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module(x))
