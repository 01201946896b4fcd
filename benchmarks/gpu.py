"""What measuring on a GPU needs beyond measuring on a CPU.

Inputs rotate: calls in a row on the same tensors would find them in the L2 cache, which a network's layers don't; so a
side gets as many copies of its operands as make several times that cache, and takes them in turns. torch is timed with
cudnn.benchmark off and on (cuDNN then times its own algorithms on the first call), in each layout, and its best counts.
TF32 is one setting for both sides. And the roofs are the GPU's: a copy in its memory, and torch.matmul, which is
cuBLAS, on large square matrices.
"""

import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .computations import DTYPES, Operands

CACHES = 3  # times the L2 cache that the copies of the operands fill together
MOST_COPIES, MOST_BYTES = 64, 4 << 30


def allow_tf32(allowed: bool) -> None:
    """For torch's convolutions and convx's, and for the products that the roofs are measured by."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def copies(operands: Operands) -> list[Operands]:
    """The operands, and copies in the same layout, enough that none is found in the cache when its turn comes again."""
    each = sum(t.nbytes for t in operands)
    cache = torch.cuda.get_device_properties(operands.x.device).L2_cache_size
    count = min(-(-CACHES * cache // each), MOST_COPIES, max(1, MOST_BYTES // each))
    return [operands, *(Operands(*(t.clone() for t in operands)) for _ in range(count - 1))]


def in_turns(calls: list[Callable[[], Tensor]]) -> Callable[[], Tensor]:
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def with_cudnn_benchmark(enabled: bool, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        torch.backends.cudnn.benchmark = enabled
        return call()

    return run


def _best_seconds(call: Callable[[], object], seconds: float) -> float:
    """The shortest of many runs of a call."""
    call()
    torch.cuda.synchronize()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3)
    return best


def copy_rate(seconds: float, size: int) -> float:
    """GB/s, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda").fill_(1)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(lambda: target.copy_(source), seconds) / 1e9


def product_rate(dtype: torch.dtype, seconds: float, n: int) -> float:
    """GFLOP/s of torch.matmul."""
    a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / _best_seconds(lambda: torch.matmul(a, b, out=out), seconds) / 1e9


def measure_roofs(seconds: float = 0.3, copied: int = 1 << 30, n: int = 8192) -> dict[str, float]:
    """As roofs.measure(): GFLOP/s by dtype, and GB/s of a copy, as "copy". float32 is TF32 where that is allowed."""
    rates = {name: product_rate(dtype, seconds, n // 2 if name == "float64" else n) for name, dtype in DTYPES.items()}
    return {"copy": copy_rate(seconds, copied), **rates}
