"""torch's own samples of the convolutions, which every torch wheel carries: OpInfo for the functions, ModuleInfo for
the layers. Decorators (torch's skips and expected failures) are not looked at: they are about torch's kernels.
"""

import sys
import types
import unittest

try:
    import expecttest  # noqa: F401  (torch.testing._internal imports it, for a base class of torch's own test suite)
except ModuleNotFoundError:  # the wheel does not depend on it; an empty one serves
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    sys.modules["expecttest"] = stand_in

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

_OPS = ("nn.functional.conv2d", "nn.functional.conv_transpose2d")
_MODULES = ("nn.Conv2d", "nn.ConvTranspose2d", "nn.LazyConv2d", "nn.LazyConvTranspose2d")

OP_INFOS = [op for op in op_db if op.name in _OPS]
MODULE_INFOS = [info for info in module_db if info.name in _MODULES]
assert {op.name for op in OP_INFOS} == set(_OPS), "torch renamed its OpInfo entries"
assert {info.name for info in MODULE_INFOS} == set(_MODULES), "torch renamed its ModuleInfo entries"


def op_samples(op, kind, device, dtype):
    """All samples of a kind, 'sample_inputs' or 'reference_inputs'."""
    return list(getattr(op, kind)(device, dtype, requires_grad=dtype.is_floating_point or dtype.is_complex))


def op_error_inputs(op, device):
    """All inputs that must be refused; torch has none for conv_transpose2d."""
    return list(op.error_inputs(device)) if op.error_inputs_func else []


def module_inputs(info, device, dtype, training):
    return info.module_inputs_func(info, device=device, dtype=dtype, requires_grad=True, training=training)
