"""What the tests of CUDA kernels on the emulator (emulator/) have in common. Importing it skips a test file where there
is no compiler for the emulator."""

import numpy as np
import pytest
import torch
from emulator import library as emulator
from emulator.build import COMPILER
from exact import assert_exact, draw_integers, judge, numpy_of
from memory import storage_bytes
from test_accuracy import draw, errors, torchs_result, ulp_of_largest
from test_propagation import SPECIAL, difference, special_operands

if COMPILER is None:
    pytest.skip("no C++ compiler for the emulator (apt install g++)", allow_module_level=True)

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SAME = ("contiguous", "channels_last")


def judged(primitive, operands, problem):
    """The reference's result for (first, second, bias or None), infinities and NaN among them."""
    with np.errstate(invalid="ignore"):
        return judge(primitive, *map(numpy_of, operands), problem)


def check_exact(primitive, algorithm, problem, dtype, layouts, bias="none", channels_last=False, what=None):
    """The result is exact, and no operand is written to."""
    first, second, b, expected = draw_integers(primitive, problem, dtype, "cpu", layouts, bias)
    operands = [t for t in (first, second, b) if t is not None]
    before = [storage_bytes(t) for t in operands]
    actual = emulator.call(primitive, algorithm, first, second, b, problem, channels_last)
    assert_exact(actual, expected, what or problem)
    for t, bytes_before in zip(operands, before, strict=True):
        assert storage_bytes(t) == bytes_before, f"{what or problem}: an operand was written to"


def check_special_values(primitive, algorithm, problem, dtype, where, values, layout="contiguous", channels_last=False):
    """Infinities and NaN, `values` at random places of one operand, go where the definition takes them."""
    operands = special_operands(primitive, problem, dtype, where, SPECIAL[values])
    expected = judged(primitive, (*operands, None), problem)
    if layout == "channels_last":
        operands = [t.contiguous(memory_format=torch.channels_last) for t in operands]
    actual = emulator.call(primitive, algorithm, *operands, None, problem, channels_last)
    assert not (wrong := difference(actual, expected, problem)), wrong


def check_errors(primitive, algorithm, problem, dtype):
    """Normal values: the errors are at most twice those of torch, or small where torch's are large."""
    operands, exact = draw(primitive, problem, dtype, "cpu")
    ulp = ulp_of_largest(exact, dtype)
    torchs = errors(torchs_result(primitive, *operands, problem), exact)
    ours = errors(emulator.call(primitive, algorithm, *operands, problem), exact)
    if torchs[0] > 64 * ulp:
        assert ours[0] <= 8 * ulp
        return
    for kind, our, their in zip(("largest error", "norm of errors"), ours, torchs, strict=True):
        assert our <= 2 * their, f"{dtype}: {kind} {our / their:.2f} times torch's, {ours[0] / ulp:.2f} ulp"


def check_every_barrier_is_needed(run, count, reports, orders=("ascending",), files="", **settings):
    """`run` comes to `count` barriers and waits in `files`; if any is left out the emulator reports a mistake."""
    emulator.places()
    emulator.configure(orders[0], **settings)
    run()
    places = [place for place in emulator.places() if place.startswith(files)]
    assert len(places) == count, f"there are other barriers and waits than the test knows: {places}"
    for place in places:
        for order in orders:
            emulator.configure(order, dropped=place, **settings)
            with pytest.raises(RuntimeError, match=reports):
                run()


def kernels_chosen(primitive, problem, dtype):
    """The symbols of the kernels that the automatic choice launches."""
    first, second, result = (torch.empty(s, dtype=dtype) for s in problem.shapes(primitive))
    emulator.launched(forget=True)
    emulator.configure(dry=True)
    emulator.run_into(result, primitive, "", first, second, None, problem)
    return " ".join(row.symbol for row in emulator.launched())
