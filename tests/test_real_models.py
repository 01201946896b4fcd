"""Networks of transformers and diffusers, by convx.convert and by convx.intercept, beside torch's own layers.

The bound is that of bounds.py, float64 the judge and torch's float32 the yardstick: at most twice torch's error, in the
maximum and in the norm for outputs, in the norm over all inputs for the gradients of a convolution, weight and bias
together. The gradients of other layers carry the errors of everything behind them, by luck some more and some less than
torch's, so those are held to it all together.
"""

import copy
import functools

import pytest
import torch
from bounds import TIMES
from conftest import DEVICES
from counting import count_calls, ran_on_convx
from real_models import MODELS, build, images
from torch import nn

import convx

pytestmark = pytest.mark.parametrize("name", MODELS)
INPUTS = 3


def run(name, model, call, device, dtype=torch.float32):
    """The outputs for some inputs, and the gradients of each by all parameters, by name."""
    outputs, gradients = [], []
    for seed in range(INPUTS):
        output = call(model, images(name, 2, seed).to(device, dtype))
        cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        parameters = dict(model.named_parameters())
        found = torch.autograd.grad(output, list(parameters.values()), cotangent, allow_unused=True)
        outputs.append(output.detach().double())
        gradients.append({n: g.double() for n, g in zip(parameters, found, strict=True) if g is not None})
    assert gradients[0].keys() == gradients[-1].keys()
    return torch.stack(outputs), {n: torch.stack([g[n] for g in gradients]) for n in gradients[0]}


@functools.cache
def torchs(name, device):
    """The model with torch's layers, what it gives in float32, and what it gives in float64."""
    model, call = build(name)
    model = model.to(device)
    truth = run(name, copy.deepcopy(model).double(), call, device, torch.float64)
    return model, call, run(name, model, call, device), truth


def assert_as_right_as_torchs(ours, model, yardstick, truth):
    (output, gradients), (their_output, their_gradients), (true_output, true_gradients) = ours, yardstick, truth
    assert gradients.keys() == their_gradients.keys() == true_gradients.keys()
    # the largest errors of several inputs together: a single one is as much torch's luck as ours
    for measure in (torch.Tensor.norm, lambda e: e.flatten(1).abs().amax(1).norm()):
        assert measure(output - true_output) <= TIMES * measure(their_output - true_output)
    ratios = {}
    for layer, kind in model.named_modules():
        names = [n for n in true_gradients if n.rpartition(".")[0] == layer]
        error, theirs = (
            sum((g[n] - true_gradients[n]).square().sum() for n in names) for g in (gradients, their_gradients)
        )
        if names and (error or theirs):
            ratios[layer] = (error / theirs) ** 0.5
            if isinstance(kind, (nn.Conv2d, nn.ConvTranspose2d)):
                assert ratios[layer] <= TIMES, f"{layer}: {ratios[layer]:.3g} times torch's error"
    assert torch.stack(list(ratios.values())).square().mean().sqrt() <= TIMES, ratios


@pytest.mark.parametrize("device", DEVICES)
def test_converted_and_intercepted(name, device, capsys):
    _, count, transposed, _ = MODELS[name]
    model, call, yardstick, truth = torchs(name, device)
    capsys.readouterr()
    converted = convx.convert(copy.deepcopy(model))
    assert f"converted {count} of {count} layers" in capsys.readouterr().err
    assert convx.count(converted) == count
    assert sum(isinstance(m, convx.ConvTranspose2d) for m in converted.modules()) == transposed
    ours = run(name, converted, call, device)
    assert_as_right_as_torchs(ours, model, yardstick, truth)

    with convx.intercept() as taken, count_calls() as calls:
        again = run(name, model, call, device)
    with torch.no_grad(), count_calls() as theirs:
        call(model, images(name, 2, 0).to(device))
    assert taken.count == INPUTS * sum(theirs.values()) and ran_on_convx(calls)
    assert torch.equal(again[0], ours[0]) and all(map(torch.equal, again[1].values(), ours[1].values()))


def test_state_dicts_interchange(name, tmp_path):
    """Both ways, and through the libraries' own files; reverted, everything is torch's again."""
    model, call, (output, _), _ = torchs(name, "cpu")
    x = images(name, 2, 0)
    converted = convx.convert(build(name)[0], quiet=True)
    expected = call(converted, x)
    assert list(converted.state_dict()) == list(model.state_dict())

    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    zeroed = convx.convert(copy.deepcopy(other), quiet=True)
    other.load_state_dict(converted.state_dict())
    assert torch.equal(call(other, x), output[0].float())
    zeroed.load_state_dict(model.state_dict())
    assert torch.equal(call(zeroed, x), expected)

    converted.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(call(loaded, x), output[0].float())

    convx.revert(converted, quiet=True)
    assert [type(m) for m in converted.modules()] == [type(m) for m in model.modules()]
    with count_calls() as calls:
        assert torch.equal(call(converted, x), output[0].float())
    assert not any(called.startswith("convx.") for called in calls)
