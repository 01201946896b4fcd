"""How far a rounded result may be from the truth: at most twice as far as torch's own, in the maximum and in the norm.

float64 is the judge, torch only the yardstick. All errors are counted in ulp: units in the last place of the largest
element of the tensor. Some rules make torch a fair yardstick on samples as small as torch's own, of few outputs each:

  pool      over all samples of a dtype and a kind of result (output, gradients, ...) together, the largest error and
            the norm of all errors are at most twice torch's.
  sample    each sample by itself too, but torch may be exact there by luck, so a few ulp are always allowed: 1 for
            16-bit types, which are rounded once, from float32; 8 for those that accumulate in their own precision.
  garbage   torch's CPU bf16 and fp16 convolutions are broken on AMX machines for output width 1 and a horizontal
            stride (related: pytorch #169688, #163347); where torch is off by more than 64 ulp, 8 ulp stand alone.
  exact     what the judge can't be ahead of (float64, complex128, integers) must be equal, on operands that make
            every partial sum representable.
"""

from collections import defaultdict

import torch

TIMES = 2  # torch's own error
GARBAGE = 64  # ulp beyond which torch's error is no yardstick
ALONE = 8  # ulp, the bound where torch gives none
ROUNDED_ONCE = {torch.float16: 1, torch.bfloat16: 1}  # ulp that a single sample may have, if not ALONE

EXACT = (torch.float64, torch.complex128, torch.int64)


def real_dtype(dtype):
    return dtype.to_real() if dtype.is_complex else dtype


def judge_dtype(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def representable(tensor):
    """The same values rounded to multiples of 1/256: sums of products of two of them are exact in float64."""
    if tensor is None or not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    if tensor.is_complex():
        parts = torch.view_as_real(tensor.detach())
        return torch.view_as_complex((parts * 256).round() / 256).requires_grad_(tensor.requires_grad)
    return ((tensor.detach() * 256).round() / 256).requires_grad_(tensor.requires_grad)


def ulp(largest, dtype):
    """The distance of neighbours in dtype around a positive value, no less than among its smallest normal numbers."""
    info = torch.finfo(real_dtype(dtype))
    exponent = torch.frexp(torch.tensor(max(float(largest), info.tiny), dtype=torch.float64)).exponent - 1
    return info.eps * 2.0 ** int(exponent)


def _parts(tensor, like):
    """As float64 on the CPU, complex numbers as pairs."""
    wide = tensor.detach().cpu().to(judge_dtype(like))
    return torch.view_as_real(wide.resolve_conj()) if wide.is_complex() else wide


def _errors(actual, truth):
    """The errors of all elements in ulp, flat; infinite where there is NaN or infinity."""
    expected = _parts(truth, truth.dtype)
    difference = (_parts(actual, truth.dtype) - expected) / ulp(expected.abs().max(), actual.dtype)
    return difference.flatten().nan_to_num(torch.inf, torch.inf, torch.inf)


class Pool:
    """Checks results one by one, remembers their errors, and checks them together at the end."""

    def __init__(self):
        self._errors = defaultdict(lambda: ([], []))

    def check(self, ours, torchs, truth, kind, what):
        """Ours against truth, with torch's result for the same operands in the same dtype as the yardstick."""
        assert ours.shape == truth.shape, f"{what}: expected shape {tuple(truth.shape)}, got {tuple(ours.shape)}"
        assert ours.dtype == torchs.dtype, f"{what}: expected {torchs.dtype}, got {ours.dtype}"
        if truth.numel() == 0:
            return
        if ours.dtype in EXACT:
            assert torch.equal(_parts(ours, truth.dtype), _parts(truth, truth.dtype)), f"{what}: not exact"
            return
        our, their = _errors(ours, truth), _errors(torchs, truth)
        largest = our.abs().max()
        if their.abs().max() > GARBAGE:
            assert largest <= ALONE, f"{what}: {largest:.3g} ulp (torch is no yardstick here)"
            return
        allowed = max(TIMES * their.abs().max(), ROUNDED_ONCE.get(ours.dtype, ALONE))
        assert largest <= allowed, f"{what}: {largest:.3g} ulp, allowed {allowed:.3g}"
        for errors, sort in zip((our, their), self._errors[ours.dtype, kind], strict=True):
            sort.append(errors)

    def failures(self):
        """What the pool as a whole says; empty if all is well."""
        said = []
        for (dtype, kind), sorts in self._errors.items():
            our, their = map(torch.cat, sorts)
            for measure, of in (("largest error", lambda e: e.abs().max()), ("norm of errors", torch.Tensor.norm)):
                if of(our) > TIMES * of(their):
                    said.append(f"{dtype} {kind}: {measure} {of(our):.3g} ulp, torch's {of(their):.3g}")
        return said
