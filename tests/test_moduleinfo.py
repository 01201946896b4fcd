"""torch's own samples of the four layers (ModuleInfo), every one of them: the same constructor arguments, seed and
input for torch's class and ours, in training and in eval mode, in every dtype that torch lists.
"""

import copy
import itertools

import pytest
import torch
from bounds import EXACT, Pool, judge_dtype, representable
from counting import count_calls, ran_on_convx
from derivatives import derivatives
from torch.func import functional_call
from torch_samples import MODULE_INFOS, module_inputs

import convx

OURS = {
    "nn.Conv2d": convx.Conv2d,
    "nn.ConvTranspose2d": convx.ConvTranspose2d,
    "nn.LazyConv2d": convx.LazyConv2d,
    "nn.LazyConvTranspose2d": convx.LazyConvTranspose2d,
}


# Torch's samples are few and small; some draws of their values make the errors of a dtype more than luck.
DRAWS = 6


def construct(cls, sample, device, dtype, training, seed):
    """A layer as torch's own module tests make it, with its input given once so that a lazy one has its weight."""
    torch.manual_seed(seed)
    arguments = sample.constructor_input
    layer = cls(*arguments.args, **arguments.kwargs, device=device, dtype=dtype).train(training)
    with torch.no_grad():
        layer(*sample.forward_input.args, **sample.forward_input.kwargs)
    return layer


def as_function(layer):
    """The layer as a function of its input and parameters."""
    names = [name for name, _ in layer.named_parameters()]
    return lambda x, *parameters: functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))


def same(a, b):
    """torch.equal, which does not know complex32."""
    return torch.equal(*(torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (a, b)))


def check_module(info, sample, device, dtype, training, seed, what, pool):
    torchs = construct(info.module_cls, sample, device, dtype, training, seed)
    ours = construct(OURS[info.name], sample, device, dtype, training, seed)
    assert isinstance(ours, getattr(info.module_cls, "cls_to_become", None) or info.module_cls)
    assert ours.training is training and repr(ours) == repr(torchs), what
    assert all(map(same, ours.parameters(), torchs.parameters())), f"{what}: other initial weights"

    (x,) = sample.forward_input.args
    given = [x, *torchs.parameters()]
    if dtype in EXACT:
        given = [representable(t) for t in given]
    wide = [t.detach().cpu().to(judge_dtype(dtype)) for t in given]
    judge = copy.deepcopy(torchs).cpu().to(judge_dtype(dtype))
    truth = derivatives(as_function(judge), wide)
    expected = derivatives(as_function(torchs), given)
    with count_calls() as calls:
        actual = derivatives(as_function(ours), given)
    assert ran_on_convx(calls), f"{what}: {calls}"
    assert actual.keys() == expected.keys() == truth.keys()
    for name, value in truth.items():
        pool.check(actual[name], expected[name], value, name.split()[0], f"{what}, {name}")
    if sample.reference_fn is not None:  # unbatched: equal to a batch of one
        reference = sample.reference_fn(ours, *sample.forward_input.args)
        assert same(ours(x), reference), what


@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:ComplexHalf support is experimental")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature", "ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", MODULE_INFOS, ids=lambda info: info.name)
def test_module_inputs(info, training, device, monkeypatch):
    if device == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 means float32 on both sides
    torch.set_num_threads(1)  # tiny problems: handing them to a second thread takes torch ten times as long
    done, failures, pool = {}, [], Pool()
    for dtype, seed in itertools.product(sorted(info.supported_dtypes(device), key=str), range(DRAWS)):
        torch.manual_seed(seed)
        samples = module_inputs(info, device, dtype, training)
        assert samples, f"torch gives no inputs for {info.name} in {dtype}"
        for i, sample in enumerate(samples):
            arguments = sample.constructor_input
            what = f"{dtype} sample {i}: {info.name}{arguments.args} {arguments.kwargs} {sample.desc}"
            try:
                check_module(info, sample, device, dtype, training, seed, what, pool)
            except Exception as error:
                failures.append(f"{what}\n    {type(error).__name__}: {error}")
            done[dtype] = done.get(dtype, 0) + 1
    assert done and set(done.values()) == {DRAWS * len(samples)}
    failures += pool.failures()
    dtypes = ", ".join(str(d).removeprefix("torch.") for d in done)
    print(f"\n{info.name} on {device}: {len(samples)} samples, {DRAWS} draws each, in {dtypes}")
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)
