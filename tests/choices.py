"""Running one primitive by every algorithm, on every instruction set: each test of the kernels goes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from conftest import ALGORITHMS, INSTRUCTION_SETS
from memory import poisoned_results
from problems import Problem

import convx

# Written without vectors: the same machine code whatever the instruction set.
LITERAL = ("reference", "scatter")


def instruction_sets(algorithm: str) -> list[str]:
    """Those with the matrix unit for the row that is built on it (or its twin), and the one that multiplies pairs of
    bfloat16 for the row that does; the others use AVX-512 at most."""
    if algorithm == "bfloat16_pairs":
        return [isa for isa in INSTRUCTION_SETS if isa == "avx512_bf16"]
    of_amx = algorithm == "amx"
    return [isa for isa in INSTRUCTION_SETS if isa.startswith("amx") == of_amx and isa != "avx512_bf16"]


def choices(device: str, primitive: str) -> list[tuple[str, str | None]]:
    """(algorithm, instruction set) of a primitive; None where there is nothing to choose."""
    found = []
    for a_device, a_primitive, algorithm in ALGORITHMS:
        if (a_device, a_primitive) == (device, primitive):
            vectors = device == "cpu" and algorithm not in LITERAL
            found += [(algorithm, isa) for isa in (instruction_sets(algorithm) if vectors else [None])]
    return found


@contextmanager
def forced(primitive: str, algorithm: str, isa: str | None = None):
    """An empty name leaves the choice free."""
    if isa is not None:
        convx._C.force_cpu_isa(isa)
    try:
        with convx.algorithm(**({primitive: algorithm} if algorithm else {})):
            yield
    finally:
        if isa is not None:
            convx._C.force_cpu_isa("")


def call(primitive: str, first, second, bias, problem: Problem, channels_last: bool = False) -> torch.Tensor:
    """convx's result, by the operator itself, in memory that was poisoned before."""
    operands = (first, second) if primitive == "grad_weight" else (first, second, bias)
    with poisoned_results():
        return getattr(torch.ops.convx, primitive)(*operands, *problem.args(primitive, channels_last))


def call_each(
    primitive: str, first, second, bias, problem: Problem, channels_last: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """(a description, the result) of every algorithm that can do the problem; the last, the reference, always can."""
    device = first.device.type
    rows = choices(device, primitive)
    for algorithm, isa in rows:
        try:
            with forced(primitive, algorithm, isa):
                result = call(primitive, first, second, bias, problem, channels_last)
        except RuntimeError as error:
            reason = str(error).partition("was forced but can't do ")[2]
            if not reason or algorithm == rows[-1][0]:
                raise
            continue
        yield f"{algorithm} on {isa or device}: {primitive} of {problem}", result
