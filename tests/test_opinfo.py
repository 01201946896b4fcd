"""torch's own samples of conv2d and conv_transpose2d, every one of them, in every dtype that torch lists: value,
gradients, double backward and forward mode against the float64 judge (bounds.py), and the errors torch promises.
"""

import pytest
import torch
import torch.nn.functional as F
from bounds import EXACT, Pool, judge_dtype, representable
from counting import count_calls, ran_on_convx
from derivatives import derivatives
from torch_samples import OP_INFOS, op_error_inputs, op_samples

import convx

OURS = {"nn.functional.conv2d": convx.conv2d, "nn.functional.conv_transpose2d": convx.conv_transpose2d}
TORCHS = {"nn.functional.conv2d": F.conv2d, "nn.functional.conv_transpose2d": F.conv_transpose2d}


def dtypes_of(op, device):
    return sorted(op.supported_dtypes(device), key=str)


def check_sample(op, sample, dtype, what, pool):
    """One sample: our call and torch's with the same arguments, and the judge's with the same values in float64."""
    given = [sample.input, *(t for t in sample.args if t is not None)]
    if dtype in EXACT:
        given = [representable(t) for t in given]

    def call(function, *operands):
        return function(*operands, *sample.args[len(operands) - 1 :], **sample.kwargs)

    if not (dtype.is_floating_point or dtype.is_complex):
        out = call(OURS[op.name], *given)
        assert out.dtype == dtype and torch.equal(out, call(TORCHS[op.name], *given)), what
        return
    wide = [t.detach().cpu().to(judge_dtype(dtype)) for t in given]
    truth = derivatives(lambda *t: call(TORCHS[op.name], *t), wide)
    torchs = derivatives(lambda *t: call(TORCHS[op.name], *t), given)
    with count_calls() as calls:
        ours = derivatives(lambda *t: call(OURS[op.name], *t), given)
    assert ran_on_convx(calls), f"{what}: {calls}"
    assert ours.keys() == torchs.keys() == truth.keys()
    for name, value in truth.items():
        pool.check(ours[name], torchs[name], value, name.split()[0], f"{what}, {name}")


@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("kind", ["sample_inputs", "reference_inputs"])
@pytest.mark.parametrize("op", OP_INFOS, ids=lambda op: op.name)
def test_samples(op, kind, device, monkeypatch):
    if device == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 means float32 on both sides
    """Every sample in every dtype; all failures are collected, so that one does not hide another."""
    torch.set_num_threads(1)  # tiny problems: handing them to a second thread takes torch ten times as long
    done, failures, pool = {}, [], Pool()
    for dtype in dtypes_of(op, device):
        samples = op_samples(op, kind, device, dtype)
        assert samples, f"torch gives no {kind} for {op.name} in {dtype}"
        for i, sample in enumerate(samples):
            what = f"{dtype} sample {i}: {sample.summary()}"
            try:
                check_sample(op, sample, dtype, what, pool)
            except Exception as error:
                failures.append(f"{what}\n    {type(error).__name__}: {error}")
            done[dtype] = done.get(dtype, 0) + 1
        assert done[dtype] == len(samples) == len(list(getattr(op, kind)(device, dtype)))
    failures += pool.failures()
    counts = ", ".join(f"{n} {str(d).removeprefix('torch.')}" for d, n in done.items())
    print(f"\n{op.name} on {device}, {kind}: {sum(done.values())} samples ({counts})")
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)


@pytest.mark.parametrize("op", OP_INFOS, ids=lambda op: op.name)
def test_error_inputs(op, device):
    """Exactly the exception type, and torch's own pattern for the message."""
    errors = op_error_inputs(op, device)
    assert bool(errors) == (op.error_inputs_func is not None)
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex) as raised:
            OURS[op.name](sample.input, *sample.args, **sample.kwargs)
        assert raised.type is error.error_type, sample.summary()
    print(f"\n{op.name} on {device}, error_inputs: {len(errors)}")
