"""Weight gradients whose pixels are divided (pixel_shares.cpp): a share is some images, or some rows of results of one.

That there are several shares shows only in bits and time, so the problems are large enough for it: 2048 pixels a share,
more than 8 outputs, of one image 4 times as many rows as two shares both read.
"""

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem
from test_determinism import draw, same_bits

CASES = {
    "images": Problem(24, 5, 16, 17, 9, 3, 3, padding=(1, 1)),
    "images-strided": Problem(11, 3, 43, 45, 9, 5, 4, stride=(2, 2), padding=(2, 1)),
    "images-reflect": Problem(21, 4, 16, 17, 9, 3, 3, padding=(1, 1), mode="reflect"),
    "images-groups": Problem(24, 6, 16, 17, 20, 3, 3, padding=(1, 1), G=2),
    "images-in-place": Problem(24, 19, 16, 17, 9, 1, 1),
    "rows": Problem(1, 4, 70, 90, 9, 3, 3, padding=(1, 1)),
    "rows-strided": Problem(1, 3, 149, 142, 10, 5, 5, stride=(2, 2), padding=(2, 2)),
    "rows-of-two-images": Problem(2, 5, 68, 66, 17, 3, 2, padding=(1, 0)),
    "rows-dilated": Problem(1, 3, 214, 28, 11, 3, 3, dilation=(3, 2)),
    "rows-in-place": Problem(1, 20, 80, 83, 12, 1, 1),
    "rows-pointwise-strided": Problem(1, 20, 159, 150, 12, 1, 1, stride=(2, 2)),
    "rows-exchanged": Problem(1, 24, 81, 80, 9, 3, 3, padding=(1, 1)),
    "few-outputs": Problem(1, 24, 81, 80, 8, 3, 3, padding=(1, 1)),  # one share, as its inputs are divided
    "rows-in-the-padding": Problem(1, 3, 4, 8, 9, 3, 3, padding=(700, 1)),  # some shares read nothing, or not all taps
    "rows-circular": Problem(1, 3, 80, 60, 9, 3, 3, padding=(1, 1), mode="circular"),  # one share: rows fold over
    "wide": Problem(
        1, 6, 40, 400, 20, 3, 3, padding=(1, 1)
    ),  # strips are parts of several rows, the last ones narrower
}
NAMES = ("winograd", "amx", "bfloat16_pairs", "pixels", "outer_product")
ROWS = [(name, isa) for name in NAMES for isa in instruction_sets(name)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _gradient(row, problem, x, y):
    """None if the algorithm can't do it."""
    try:
        with forced("grad_weight", *row):
            return call("grad_weight", x, y, None, problem)
    except RuntimeError as error:
        if "was forced but can't do" not in str(error):
            raise


@pytest.mark.parametrize("row", ROWS, ids="-".join)
@pytest.mark.parametrize("case", CASES)
def test_exact(case, row):
    problem = CASES[case]
    for dtype in DTYPES:
        for layout in ("contiguous", "channels_last"):
            # winograd's sums are up to 16 times the result
            largest = 12 if row[0] == "winograd" and dtype == torch.float32 else None
            x, y, _, expected = draw_integers("grad_weight", problem, dtype, "cpu", (layout, layout), largest=largest)
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)  # conftest.py sets it back
                actual = _gradient(row, problem, x, y)
                if actual is None:
                    continue
                assert_exact(actual, expected, f"{dtype} {layout} on {threads} threads: {problem}")


@pytest.mark.parametrize("row", ROWS, ids="-".join)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_for_any_number_of_threads(case, row):
    problem = CASES[case]
    for dtype in DTYPES:
        x, y, _ = draw("grad_weight", problem, dtype, "cpu")
        torch.set_num_threads(1)
        first = _gradient(row, problem, x, y)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            again = _gradient(row, problem, x, y)
            assert (first is None and again is None) or same_bits(first, again), f"{dtype}, {threads} threads"


@pytest.mark.parametrize("row", ROWS, ids="-".join)
@pytest.mark.parametrize("case", ("images", "rows", "rows-in-the-padding"))
def test_what_one_share_cannot_do(case, row):
    """An infinity, which must not meet the padding's zeros, sends the whole gradient to the reference."""
    problem = CASES[case]
    for dtype in (torch.float32, torch.bfloat16):
        x, y, _ = draw("grad_weight", problem, dtype, "cpu")
        x[-1, 0, 0, 0] = float("inf")
        y[0, 1, -1, -1] = float("nan")
        actual, expected = _gradient(row, problem, x, y), _gradient(("reference", None), problem, x, y)
        if actual is not None:
            assert not expected.isfinite().all() and expected.isfinite().any()
            assert torch.equal(actual.isfinite(), expected.isfinite())
            torch.testing.assert_close(actual, expected, rtol=0.02, atol=1e-3, equal_nan=True)
