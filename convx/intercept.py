"""Running other people's code on convx: inside the context, torch's own convolution calls are convx's.

A ``TorchFunctionMode`` sees every call of torch's Python API, whichever code makes it, before torch does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .functional import conv2d, conv_transpose2d

# torch.nn.functional's are these same objects.
_REPLACEMENTS = {torch.conv2d: conv2d, torch.conv_transpose2d: conv_transpose2d}


def _ours(input: object) -> bool:
    """Whether convx has kernels for this operand: dense, on the CPU or on CUDA (meta: shapes only)."""
    return isinstance(input, Tensor) and input.layout is torch.strided and input.device.type in ("cpu", "cuda", "meta")


class intercept(TorchFunctionMode):
    """``with convx.intercept():`` runs torch's ``conv2d`` and ``conv_transpose2d`` on convx, from whatever code.

    Calls on devices or layouts that convx has no kernels for go to torch as before. ``count`` tells how many calls
    were taken over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        replacement = _REPLACEMENTS.get(func)
        if replacement is not None and _ours(args[0] if args else kwargs.get("input")):
            self.count += 1
            func = replacement
        return func(*args, **kwargs)
