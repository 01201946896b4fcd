"""What test_distributed.py runs twice at once, under torchrun: training, and layers on shards.

    torchrun --nproc-per-node=2 tests/two_processes.py DEVICE RESULTS

Everything is small integers in float64, learning rates are powers of two, and the collectives add two numbers. So
losses, gradients and parameters are exact, and equal to those of torch's layers in one process, or something is wrong.
Each check is a function; RESULTS.RANK tells what it raised, if anything.
"""

import functools
import json
import sys
import traceback

import torch
import torch.distributed as dist
from kinds import ARGUMENTS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import convx

STEPS = 2  # a third would need more than 53 bits


def integers(*size, seed=0):
    return torch.randint(-2, 3, size, generator=torch.Generator().manual_seed(seed)).double()


def fill(module):
    for i, p in enumerate(module.parameters()):
        p.data = integers(*p.shape, seed=i)
    return module


def layer(kind, library):
    name, args, others = ARGUMENTS[kind]
    return fill(getattr(library, name)(*args, **others))


def network(kind, library):
    """The layer between two others, so that gradients have to come back through it. The last has one channel."""
    channels = ARGUMENTS[kind][1][1]
    return fill(
        nn.Sequential(library.Conv2d(3, 4, 3), nn.ReLU(), layer(kind, library), library.ConvTranspose2d(channels, 1, 2))
    )


@functools.cache
def both(device):
    """The mesh of the two processes, always the same object: torch.compile can't tell several apart (torch 2.13)."""
    return init_device_mesh(device, (2,))


def is_transposed(kind):
    return ARGUMENTS[kind][0] == "ConvTranspose2d"


def sharded(tensor, mesh, placement):
    return distribute_tensor(tensor, mesh, [placement])


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal(actual, expected, what=""):
    actual, expected = full(actual.detach()).cpu(), expected.detach().cpu()
    assert expected.any() and torch.equal(actual, expected), f"{what}: off by {(actual - expected).abs().max()}"


def assert_same_parameters(model, expected):
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert_equal(p, q, name)


# ---- data parallel: the gradient is the mean over the processes ----


def train(model, x, scale=0.5):
    """The losses of a few steps, linear in the output: all that is computed stays a multiple of a power of two."""
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-6)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(x).sum() * scale
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def train_in_one_process(kind, x):
    model = network(kind, nn).to(x.device)
    losses = train(model, x, 0.5 / dist.get_world_size())
    assert len({loss.item() for loss in losses}) == STEPS, "every step must have an effect"
    return model, losses


def assert_trains_alike(kind, device, make):
    """Each process trains on its half of the batch."""
    x = integers(4, 3, 6, 5, seed=9).to(device)
    expected, losses = train_in_one_process(kind, x)
    model = make(network(kind, convx).to(device))
    for loss, right in zip(train(model, x.chunk(2)[dist.get_rank()]), losses, strict=True):
        dist.all_reduce(loss)
        assert_equal(loss / dist.get_world_size(), right, "loss")
    assert_same_parameters(model, expected)


def ddp(kind, device):
    assert_trains_alike(kind, device, DistributedDataParallel)


def ddp_converted(kind, device):
    """Converted after it was wrapped."""
    assert_trains_alike(
        kind, device, lambda model: convx.convert(DistributedDataParallel(convx.revert(model, quiet=True)), quiet=True)
    )


def shard_all(model):
    for module in model:
        if any(True for _ in module.parameters()):
            fully_shard(module)
    return fully_shard(model)


def fsdp2(kind, device):
    assert_trains_alike(kind, device, shard_all)


def fsdp2_converted(kind, device):
    """Converted after it was sharded, when its layers are of a class of FSDP's making; and reverted."""

    def convert(model):
        model = shard_all(convx.revert(model, quiet=True))
        classes = [type(m) for m in model.modules()]
        convx.revert(convx.convert(model, quiet=True), quiet=True)
        assert [type(m) for m in model.modules()] == classes
        convx.convert(model, quiet=True)
        assert convx.count(model) == 3 and isinstance(model[2], (FSDPModule, nn.Module))
        return model

    assert_trains_alike(kind, device, convert)


# ---- DTensors: one layer, its operands sharded in every way ----

WHOLE = Replicate()


def placements(kind):
    """Name: (input, weight, bias, expected output), such that nothing has to be sent around."""
    transposed = is_transposed(kind)
    yield "batch", (Shard(0), WHOLE, WHOLE, Shard(0))
    if "depthwise" in kind:
        yield "groups", (Shard(1), Shard(0), Shard(0), Shard(1))
    else:
        yield "output channels", (WHOLE, Shard(1 if transposed else 0), Shard(0), Shard(1))
        yield "parts of a sum", (Shard(1), Shard(0 if transposed else 1), None, Partial())
    yield "linear", (Partial(), WHOLE, None, Partial())
    yield "nothing", (WHOLE, WHOLE, WHOLE, WHOLE)


def in_one_process(kind, x, with_bias):
    module = layer(kind, nn)
    if not with_bias:
        module.bias = None
    x = x.clone().requires_grad_()
    y = module(x)
    cotangent = integers(*y.shape, seed=8)
    return y, cotangent, torch.autograd.grad(y, [x, *module.parameters()], cotangent)


def operands_of(module, x, mesh, places):
    """The layer's tensors as DTensors. A part of a sum: the second process has it all."""
    tensors = [x, module.weight.detach(), *([module.bias.detach()] if places[2] else [])]
    for tensor, place in zip(tensors, [p for p in places[:3] if p], strict=True):
        if place.is_partial():
            part = tensor if dist.get_rank() == 1 else torch.zeros_like(tensor)
            yield DTensor.from_local(part, mesh, [place]).requires_grad_()
        else:
            yield sharded(tensor, mesh, place).requires_grad_()


def dtensors(kind, device):
    mesh = both(device)
    x = integers(3, 4, 5, 6, seed=7)
    for what, places in placements(kind):
        y, cotangent, gradients = in_one_process(kind, x, places[2] is not None)
        operands = list(operands_of(layer(kind, convx).to(device), x.to(device), mesh, places))
        with CommDebugMode() as sent:
            out = convx_function(kind)(*operands, **geometry(kind))
        assert sent.get_total_counts() == 0, f"{what}: {sent.get_comm_counts()}"
        assert out.placements == (places[3],), f"{what}: {out.placements}"
        assert_equal(out, y, what)
        back = sharded(cotangent.to(device), mesh, places[3] if places[3].is_shard() else WHOLE)
        ours = torch.autograd.grad(out, operands, back)
        for name, a, b in zip(("input", "weight", "bias"), ours, gradients, strict=False):
            assert_equal(a, b, f"{what}: gradient by {name}")


def dtensors_that_do_not_fit(kind, device):
    """Placements that nothing can be computed on as they are: something is sent, the result is right."""
    mesh = both(device)
    x = integers(1, 4, 5, 6, seed=7)
    y, cotangent, gradients = in_one_process(kind, x, True)
    tried = 0
    for place in (Shard(0), Shard(1), Shard(2), Shard(3), WHOLE):
        for weight_place in (Shard(0), Shard(1), Shard(2), WHOLE):
            for bias_place in (Shard(0), WHOLE):
                module = layer(kind, convx).to(device)
                operands = list(operands_of(module, x.to(device), mesh, (place, weight_place, bias_place)))
                out = convx_function(kind)(*operands, **geometry(kind))
                what = f"{place}, {weight_place}, {bias_place}"
                assert_equal(out, y, what)
                ours = torch.autograd.grad(out, operands, sharded(cotangent.to(device), mesh, Shard(2)))
                for a, b in zip(ours, gradients, strict=True):
                    assert_equal(a, b, what)
                tried += 1
    assert tried == 40


def geometry(kind):
    return ARGUMENTS[kind][2]


def convx_function(kind):
    return convx.conv_transpose2d if is_transposed(kind) else convx.conv2d


def second_derivatives(kind, device):
    """The gradient of a gradient by the weight, over the batch."""

    def twice(module, x, weight, bias, cotangent):
        y = module(x, weight, bias, **geometry(kind))
        (grad,) = torch.autograd.grad(y, x, cotangent, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), weight)[0]

    mesh = both(device)
    x, plain = integers(3, 4, 5, 6, seed=7), layer(kind, nn)
    torchs = nn.functional.conv_transpose2d if is_transposed(kind) else nn.functional.conv2d
    cotangent = integers(*plain(x).shape, seed=8)
    expected = twice(torchs, x.clone().requires_grad_(), plain.weight, plain.bias, cotangent)
    operands = operands_of(plain.to(device), x.to(device), mesh, (Shard(0), WHOLE, WHOLE))
    back = sharded(cotangent.to(device), mesh, Shard(0))
    assert_equal(twice(convx_function(kind), *operands, back), expected)


def uneven_channels(kind, device):
    """Three output channels on two devices, and one, which can't be cut."""
    if "depthwise" in kind:
        return  # groups are whole, see dtensors_that_do_not_fit
    mesh = both(device)
    transposed = is_transposed(kind)
    for outputs in (3, 1):
        weight = integers(*((4, outputs) if transposed else (outputs, 4)), 3, 2, seed=1)
        x = integers(2, 4, 5, 6, seed=7)
        expected = (nn.functional.conv_transpose2d if transposed else nn.functional.conv2d)(x, weight)
        placed = sharded(weight.to(device), mesh, Shard(1 if transposed else 0))
        out = convx_function(kind)(sharded(x.to(device), mesh, WHOLE), placed)
        assert_equal(out, expected, f"{outputs} channels")


def tensor_parallel(kind, device):
    """A network whose middle layer is cut by outputs (or groups) and whose last by inputs, in training."""
    mesh = both(device)
    x = integers(4, 3, 6, 5, seed=9).to(device)
    expected, losses = train_in_one_process(kind, x)
    model = network(kind, convx).to(device)
    transposed = is_transposed(kind)
    outputs = Shard(1 if transposed and "depthwise" not in kind else 0)
    cut = {model[2]: (outputs, Shard(0)), model[3]: (Shard(0), WHOLE)}

    def place(name, module, mesh):
        parameters = list(module.named_parameters(recurse=False))
        for (name, p), where in zip(parameters, cut.get(module, (WHOLE, WHOLE)), strict=False):
            module.register_parameter(name, nn.Parameter(sharded(p.detach(), mesh, where)))

    distribute_module(model, mesh, place)
    ours = train(model, sharded(x, mesh, WHOLE), 0.5 / 2)
    for a, b in zip(ours, losses, strict=True):
        assert_equal(a, b, "loss")
    assert_same_parameters(model, expected)


def compiled(kind, device):
    """torch.compile of a function of DTensors, forward and backward."""
    mesh = both(device)
    x = integers(4, 4, 5, 6, seed=7)
    y, cotangent, gradients = in_one_process(kind, x, True)
    operands = list(operands_of(layer(kind, convx).to(device), x.to(device), mesh, (Shard(0), WHOLE, WHOLE)))
    function, fixed = convx_function(kind), geometry(kind)
    torch.compiler.reset()  # else later kinds would be compiled for any size, which torch's own can't do either
    out = torch.compile(lambda *t: function(*t, **fixed) * 2, backend="aot_eager", fullgraph=True)(*operands)
    assert_equal(out, 2 * y)
    ours = torch.autograd.grad(out, operands, sharded(cotangent.to(device), mesh, Shard(0)))
    for a, b in zip(ours, gradients, strict=True):
        assert_equal(a, 2 * b)


def plain_tensors_among_dtensors(kind, device):
    """The path of plain calls steps aside for any DTensor, parameters too; and the error is that of torch's layers."""
    mesh = both(device)
    x = integers(4, 4, 5, 6, seed=7).to(device)
    module = layer(kind, convx).to(device)
    placed = [sharded(t.detach(), mesh, WHOLE) for t in (x, module.weight)]
    for a, b in ((x, placed[1]), (placed[0], module.weight), placed, (placed[0], nn.Parameter(placed[1]))):
        assert convx._C.conv2d(a, b, None, 1, 1, 1, 1, "zeros") is None
        assert convx._C.conv_transpose2d(a, b, None, 1, 1, 0, 1, 1) is None
    try:
        module(sharded(x, mesh, Shard(0)))
    except RuntimeError as error:
        assert "mixed torch.Tensor and DTensor" in str(error), error
    else:
        raise AssertionError("a plain weight was taken together with a DTensor")


CHECKS = [
    *(ddp, ddp_converted, fsdp2, fsdp2_converted),
    *(dtensors, dtensors_that_do_not_fit, second_derivatives, uneven_channels, tensor_parallel),
    *(compiled, plain_tensors_among_dtensors),
]
# On GPUs gloo adds, but does not gather.
CHECKS_ON_GPUS = [ddp, ddp_converted]


def main(device, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    said = {}
    for check in CHECKS if device == "cpu" else CHECKS_ON_GPUS:
        for kind in ARGUMENTS:
            try:
                check(kind, device)
                said[f"{check.__name__} {kind}"] = ""
            except Exception:
                said[f"{check.__name__} {kind}"] = traceback.format_exc()
            dist.barrier()
    with open(f"{results}.{dist.get_rank()}", "w") as file:
        json.dump(said, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
