"""The CUDA kernels of csrc/cuda, compiled as plain C++ against the emulator beside this file, for tests to call.

Like exact.call, but on the emulator: tensors on the CPU, and an algorithm of the CUDA list by its name.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from typing import NamedTuple

import torch
from emulator.build import ROOT, build
from problems import PADDING_MODES, Problem

sys.path.append(str(ROOT / "tools"))
from cuda_toolkit import short_names

PRIMITIVES = ("forward", "grad_input", "grad_weight")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)  # as in csrc/problem.h
ORDERS = ("ascending", "descending", "shuffled")
ALL_BLOCKS = 2**30
VARIANT = os.environ.get("CONVX_EMULATOR", "watched")  # of build.VARIANTS


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build(VARIANT)))
    loaded.emulated_launches.restype = ctypes.c_int64
    return loaded


@lru_cache(maxsize=1)
def algorithms() -> dict[str, dict[str, bool]]:
    """{primitive: {algorithm: deterministic}}, in the order of choice."""
    lists = {}
    for i, primitive in enumerate(PRIMITIVES):
        text = ctypes.create_string_buffer(4096)
        library().emulated_algorithms(i, text, ctypes.c_int64(len(text)))
        rows = (line.split("\t") for line in text.value.decode().splitlines())
        lists[primitive] = {name: deterministic == "1" for name, deterministic in rows}
    return lists


def configure(
    order: str = "ascending", seed: int = 1, max_blocks: int = ALL_BLOCKS, dropped: str = "", dry: bool = False
) -> None:
    """The order of threads, the largest grid, a barrier or wait to leave out (one of places()), and whether launches
    are only noted, for all that follows."""
    order_and_seed = ORDERS.index(order), ctypes.c_uint64(seed)
    library().emulated_settings(*order_and_seed, ctypes.c_int64(max_blocks), dropped.encode(), int(dry))


def pretend_device(capability: int = 90, multiprocessors: int = 4, shared_per_block: int = 227 * 1024) -> None:
    """What kernels are told of the GPU."""
    library().emulated_device(capability, multiprocessors, ctypes.c_int64(shared_per_block))


class Launched(NamedTuple):
    """A kernel that has been launched, with one size of blocks."""

    symbol: str  # mangled; empty for the tests' own kernels
    threads: int
    shared_bytes: int
    launches: int
    most_blocks: int
    dry: int  # 1: the launches were only noted


_forgotten: list[Launched] = []  # for kernels_run(), which has all


def launched(forget: bool = False) -> list[Launched]:
    """All launches since the last call with `forget`."""
    text = ctypes.create_string_buffer(1)
    size = library().emulated_launches(text, ctypes.c_int64(1), 0)
    text = ctypes.create_string_buffer(size + 1)
    library().emulated_launches(text, ctypes.c_int64(size + 1), int(forget))
    lines = (line.split("\t") for line in text.value.decode().splitlines())
    rows = [Launched(symbol, *map(int, numbers)) for symbol, *numbers in lines]
    if forget:
        _forgotten.extend(rows)
    return rows


def with_lines(message: str) -> str:
    """The message, with a file and line for each place in the code, [+0x...], as far as addr2line is there to tell."""

    def line_of(place):
        # The address is where a call returns to, so the call is one byte before.
        where = f"{int(place[1], 16) - 1:#x}"
        run = subprocess.run(["addr2line", "-e", str(build(VARIANT)), where], capture_output=True, text=True)
        return run.stdout.strip().rpartition("/")[2].partition(" ")[0]

    return re.sub(r"\[\+(0x\w+)\]", line_of, message) if shutil.which("addr2line") else message


def _guarded(function, *arguments) -> None:
    message = ctypes.create_string_buffer(2048)
    if function(*arguments, message, ctypes.c_int64(len(message))):
        raise RuntimeError(with_lines(message.value.decode()))


def kernels_run() -> dict[str, int]:
    """Which of the CUDA kernels have run so far, with their types and tiles, and how often each."""
    if not library.cache_info().currsize:
        return {}
    rows = [row for row in (*_forgotten, *launched()) if row.symbol and not row.dry]
    names = short_names([row.symbol for row in rows])
    kernels = dict.fromkeys(sorted(names), 0)
    for row, name in zip(rows, names, strict=True):
        kernels[name] += row.launches
    return kernels


def _pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def _bytes(tensor):
    return ctypes.c_int64(tensor.nbytes)


def _longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def _numbers(p: Problem):
    """As problem_of in interface.cpp takes them."""
    numbers = (p.N, p.C, p.H, p.W, p.K, p.R, p.S, p.P, p.Q, p.G, *p.stride, *p.padding, *p.dilation)
    return _longs((*numbers, PADDING_MODES.index(p.mode)))


TAKES_FLOAT32_AS_TF32 = ("tensorcore", "tensorcore_copied")  # only if it may be rounded so


def run_into(result, primitive: str, algorithm: str, first, second, bias, problem: Problem, tf32=None) -> None:
    """Fills `result`, of any strides. `algorithm` may be "" for the automatic choice. float32 is TF32 where it must."""
    tf32 = algorithm in TAKES_FLOAT32_AS_TF32 if tf32 is None else tf32
    assert algorithm == "" or algorithm in algorithms()[primitive]
    x, w, y = {
        "forward": (first, second, result),
        "grad_input": (result, second, first),
        "grad_weight": (first, result, second),
    }[primitive]
    _guarded(
        library().emulated_run,
        PRIMITIVES.index(primitive),
        algorithm.encode(),
        DTYPES.index(result.dtype),
        _numbers(problem),
        (ctypes.c_void_p * 3)(x.data_ptr(), w.data_ptr(), y.data_ptr()),
        _longs((*x.stride(), *w.stride(), *y.stride())),
        None if bias is None else ctypes.c_void_p(bias.data_ptr()),
        ctypes.c_int64(0 if bias is None else bias.stride(0)),
        int(tf32),
    )


def call(primitive: str, algorithm: str, first, second, bias, problem: Problem, channels_last: bool = False):
    """The result in new memory, which is full of NaN before and has a margin that must stay so."""
    margin = 64
    shape = problem.shapes(primitive)[2]
    count = torch.Size(shape).numel()
    storage = torch.full((count + 2 * margin,), float("nan"), dtype=first.dtype)
    bits = storage.view(torch.uint8).clone()
    order = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
    result = storage[margin : margin + count].view([shape[d] for d in order])
    if channels_last:
        result = result.permute(0, 3, 1, 2)
    if count:  # as csrc/bindings.cpp: nothing is launched for an empty result
        run_into(result, primitive, algorithm, first, second, bias, problem)
    after, edge = storage.view(torch.uint8), margin * storage.element_size()
    assert torch.equal(after[:edge], bits[:edge]), f"{problem}: written to before the result"
    assert torch.equal(after[len(after) - edge :], bits[len(bits) - edge :]), f"{problem}: written to after the result"
    return result


def refusal(primitive: str, algorithm: str, problem: Problem, dtype) -> str:
    """Why an algorithm can't do a problem with contiguous operands; "" if it can."""
    tensors = [torch.empty(s, dtype=dtype, device="meta") for s in (problem.x_shape, problem.w_shape, problem.y_shape)]
    text = ctypes.create_string_buffer(2048)
    library().emulated_refusal(
        PRIMITIVES.index(primitive),
        algorithm.encode(),
        DTYPES.index(dtype),
        _numbers(problem),
        (ctypes.c_void_p * 3)(),
        _longs([stride for t in tensors for stride in t.stride()]),
        int(algorithm in TAKES_FLOAT32_AS_TF32),
        text,
        ctypes.c_int64(len(text)),
    )
    return text.value.decode()


def places() -> list[str]:
    """The barriers and waits that kernels have come to since the last call, as in "scatter.cuh:93"."""
    text = ctypes.create_string_buffer(65536)
    library().emulated_places(text, ctypes.c_int64(len(text)))
    return text.value.decode().splitlines()


def run_mistake(name: str, mistake: bool) -> torch.Tensor:
    """A kernel of mistakes.cu, with its mistake or without; the result."""
    source, result = torch.arange(128, dtype=torch.float32), torch.full((128,), float("nan"))
    _guarded(library().emulated_mistake, name.encode(), int(mistake), _pointer(source), _pointer(result))
    return result


def ptx_check(which: int, source, result, count: int) -> None:
    """One of the kernels of ptx_checks.cu."""
    memory = [f(t) for t in (source, result) for f in (_pointer, _bytes)]
    _guarded(library().emulated_ptx_check, which, *memory, count)


def tma_check(which: int, source, result, numbers) -> None:
    """One of its copies by the copy engine."""
    memory = [f(t) for t in (source, result) for f in (_pointer, _bytes)]
    _guarded(library().emulated_tma_check, which, *memory, _longs(numbers))
