"""convx: readable, hand-written CPU and CUDA kernels for 2-d convolution and transposed convolution.

>>> import torch, convx
>>> layer = convx.Conv2d(3, 8, kernel_size=3, padding=1)   # as torch.nn.Conv2d
>>> layer(torch.ones(1, 3, 5, 5)).shape
torch.Size([1, 8, 5, 5])
"""

import os
from importlib.metadata import PackageNotFoundError, version

import torch  # noqa: F401 (its libraries must be loaded before ours)

from . import _C, flops, grad, operators  # noqa: F401 (they register operators, and formulas for them)
from .algorithms import Algorithm, algorithm, algorithms
from .convert import Layer, convert, count, layers, revert
from .functional import conv2d, conv_transpose2d
from .info import show_config
from .intercept import intercept
from .modules import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d
from .portable import decompositions

try:
    __version__ = version("convx")
except PackageNotFoundError:  # run from a checkout that was built in place
    __version__ = "0.1.0+checkout"

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_C.release_threads)  # else convolutions wait forever in multiprocessing's forked workers

__all__ = [
    "Algorithm",
    "Conv2d",
    "ConvTranspose2d",
    "Layer",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "algorithm",
    "algorithms",
    "conv2d",
    "conv_transpose2d",
    "convert",
    "count",
    "decompositions",
    "grad",
    "intercept",
    "layers",
    "revert",
    "show_config",
]
