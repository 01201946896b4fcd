"""The CUDA kernels on a machine without a GPU: the same source, run thread by thread on the emulator (emulator/).

Exact integers over every algorithm, dtype, problem, padding mode and layout, as in test_exact.py; and what only an
emulator can ask: is the result the same in whatever order the threads run, and is every barrier needed?
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated import FLOATING, check_every_barrier_is_needed, check_exact, judged
from emulator import library as emulator
from exact import assert_exact, draw_integers, numpy_of
from memory import BIASES, LAYOUTS
from problems import PADDING_MODES, UGLY, Problem, with_modes
from sampling import covering

pytestmark = pytest.mark.usefixtures("default_emulator")
# All but depthwise_small, which takes few geometries: test_cuda_emulated_depthwise_small.py has problems for it.
ALGORITHMS = [(p, a) for p, rows in emulator.algorithms().items() for a in rows if a != "depthwise_small"]


ONLY = {
    "scatter_atomic": (torch.float32, torch.float64),  # no atomic addition of 16 bits
    "tensorcore_split": (torch.float32,),
    "tensorcore_terms": (torch.float32,),
    "tensorcore_wgmma": (torch.float16, torch.bfloat16),
    "tensorcore_copied": (torch.float16, torch.bfloat16),
    "tensorcore_grouped": (torch.float16, torch.bfloat16, torch.float32),
    "patch_windows": (torch.float16, torch.bfloat16, torch.float32),
}


def dtypes_of(primitive, algorithm):
    as_tf32 = algorithm == "tensorcore_copied" and primitive != "grad_weight"
    return ONLY.get(algorithm, FLOATING) + (torch.float32,) * as_tf32


# What multiplies whole tiles takes its time here: its dtypes are spread over the problems instead of each meeting all,
# and problems of many small products are left out (test_cuda_tensorcore.py has more that fit it).
TILED = (
    "tensorcore", "tensorcore_split", "tensorcore_wgmma", "tensorcore_copied", "tensorcore_terms", "tensorcore_grouped",
    "output_blocks", "row_windows", "patch_windows",
)  # fmt: skip
# What has limits beside its dtypes leaves problems to other rows; test_cuda_grouped.py says which for one.
LIMITED = (
    "tensorcore_grouped", "tensorcore_copied", "tensorcore_terms", "output_blocks", "row_windows", "patch_windows",
)  # fmt: skip


def suits(primitive, algorithm, problem, dtype):
    return algorithm not in LIMITED or not emulator.refusal(primitive, algorithm, problem, dtype)


def suits_tiles(p):
    products = p.G * p.R * p.S
    return products <= (36 if p.mode == "zeros" else 9)


ROWS = [(p, a, dtype) for p, a in ALGORITHMS for dtype in dtypes_of(p, a)]

# More than one tile of grad_input_scatter along either axis, more outputs than threads in a block; and outputs that
# come to an end before they reach the input.
EXTRA = {
    "beyond-a-tile": Problem(1, 2, 37, 66, 2, 3, 2, (2, 1), (1, 0), (2, 1), G=2),
    "beyond-two-tiles": Problem(1, 1, 65, 33, 2, 2, 3, (1, 2), (3, 2), (1, 2)),
    "outputs-in-padding": Problem(1, 2, 4, 4, 3, 2, 1, padding=(4, 4), P=1, Q=2),
}
PROBLEMS = with_modes(UGLY | EXTRA)
MAX_BLOCKS = (emulator.ALL_BLOCKS, 2)  # all that a launch asks for, or so few that threads must stride over their work

SANITIZED_PROBLEMS = 4  # for each row, under the sanitizers: emulator/sanitized.py


def _cases():
    """(primitive, algorithm, problem, its dtypes and variations), one test each."""
    variations = (LAYOUTS, LAYOUTS, BIASES, (False, True), emulator.ORDERS, MAX_BLOCKS)
    tiled = [row for row in ALGORITHMS if row[1] in TILED]
    fitting = [name for name, p in PROBLEMS.items() if suits_tiles(p)]
    chosen = covering([row for row in ROWS if row[1] not in TILED], PROBLEMS, *variations)
    for (primitive, algorithm), dtype, *rest in covering(tiled, range(len(FLOATING)), fitting, *variations):
        dtypes = dtypes_of(primitive, algorithm)
        chosen.append(((primitive, algorithm, dtypes[dtype % len(dtypes)]), *rest))
    cases = {}
    for (primitive, algorithm, dtype), name, *variation in chosen:
        if suits(primitive, algorithm, PROBLEMS[name], dtype):
            cases.setdefault((primitive, algorithm, name), []).append((dtype, *variation))
    return [
        pytest.param(primitive, algorithm, PROBLEMS[name], variations, id=f"{primitive}-{algorithm}-{name}")
        for (primitive, algorithm, name), variations in cases.items()
    ]


@pytest.mark.parametrize("primitive, algorithm, problem, variations", _cases())
def test_every_algorithm(primitive, algorithm, problem, variations):
    for dtype, layout_1, layout_2, bias, channels_last, order, max_blocks in variations:
        what = f"{dtype} {problem} of {layout_1} and {layout_2} with bias {bias}, {order}, at most {max_blocks} blocks"
        emulator.configure(order, max_blocks=max_blocks)
        check_exact(primitive, algorithm, problem, dtype, (layout_1, layout_2), bias, channels_last, what)


def draw_reals(primitive, problem, dtype):
    generator = torch.Generator().manual_seed(3)
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    first, second = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape_1, shape_2))
    bias = torch.randn(shape_out[1], generator=generator, dtype=torch.float64)
    return first.to(dtype), second.to(dtype), None if primitive == "grad_weight" else bias.to(dtype)


def results_by_order(primitive, algorithm, problem, dtype, **settings):
    """The result's bytes for threads in ascending, descending and two shuffled orders."""
    operands = draw_reals(primitive, problem, dtype)
    results = {}
    for order, seed in (("ascending", 0), ("descending", 0), ("shuffled", 1), ("shuffled", 2)):
        emulator.configure(order, seed, **settings)
        result = emulator.call(primitive, algorithm, *operands, problem)
        results[order, seed] = result.contiguous().view(torch.uint8)
    return results


def differing_orders(results):
    first, *others = results.values()
    return [key for key, r in zip(list(results)[1:], others, strict=True) if not torch.equal(first, r)]


REAL = Problem(1, 4, 33, 12, 8, 3, 2, (2, 1), (1, 0), (2, 1), G=2)
# Several outputs read one input through the padding, by the same tap: rows of a replicated edge, say.
CROWDED = Problem(1, 4, 7, 6, 4, 3, 3, (1, 1), (4, 3), (2, 1), G=2)
DETERMINISTIC = [(p, a, d) for p, a, d in ROWS if emulator.algorithms()[p][a]]


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("primitive, algorithm, dtype", DETERMINISTIC)
def test_same_bits_in_every_order(primitive, algorithm, dtype, mode):
    for problem in (CROWDED if mode == "replicate" else REAL,) if algorithm in TILED else (REAL, CROWDED):
        if not suits(primitive, algorithm, replace(problem, mode=mode), dtype):
            continue
        results = results_by_order(primitive, algorithm, replace(problem, mode=mode), dtype)
        assert not differing_orders(results), problem


@pytest.mark.parametrize("dtype", FLOATING[:2])
def test_the_order_shows_in_what_is_not_deterministic(dtype):
    """Atomics add in the order of arrival: were it not seen here, the test above would prove nothing."""
    assert not emulator.algorithms()["grad_input"]["scatter_atomic"]
    assert differing_orders(results_by_order("grad_input", "scatter_atomic", REAL, dtype))


def test_every_barrier_is_needed():
    """Without any one of its barriers, scatter has a race, in whatever order the threads run."""
    problem = replace(REAL, mode="reflect")
    operands = draw_reals("grad_input", problem, torch.float64)
    check_every_barrier_is_needed(
        lambda: emulator.call("grad_input", "scatter", *operands, problem),
        2,
        "without a barrier|which nobody has written",
        emulator.ORDERS,
    )


@pytest.mark.parametrize("primitive, algorithm, dtype", ROWS)
def test_skipped_taps_are_skipped(primitive, algorithm, dtype):
    """Infinity and NaN stay where the definition puts them: padding and stride gaps are no multiplication by zero."""
    problem = Problem(1, 2, 7, 9, 2, 3, 3, (2, 2), (1, 1), G=2)
    if not suits(primitive, algorithm, problem, dtype):
        stride = (1, 1) if (primitive, algorithm) == ("grad_input", "patch_windows") else (2, 2)
        problem = Problem(1, 2, 7, 9, 2, 3, 3, stride, (1, 1))
    first, second, bias, _ = draw_integers(primitive, problem, dtype, bias="contiguous")
    first, second = first.clone(), second.clone()
    if primitive == "grad_weight":  # the corner meets only the taps that reach it
        second[0, 0, 0, 0], second[0, 1, 0, 0] = float("inf"), float("nan")
    else:  # of every three taps along an axis, one reads the padding at the edge, or falls between outputs
        second[0, 0, 0, 0], second[1, -1, 0, 0] = float("inf"), float("nan")
    expected = judged(primitive, (first, second, bias), problem)
    actual = numpy_of(emulator.call(primitive, algorithm, first, second, bias, problem))
    finite = np.isfinite(expected)
    assert 0.2 < finite.mean() < 1 and np.isinf(expected).any() and np.isnan(expected).any()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("primitive, algorithm", ALGORITHMS)
def test_addresses_beyond_32_bits(primitive, algorithm):
    """Images more than 2^31 elements apart in memory; only the pages that are touched take any."""
    stride = (1, 1) if (primitive, algorithm) == ("grad_input", "patch_windows") else (2, 1)
    problem = Problem(2, 2, 5, 4, 3, 3, 2, stride, (1, 0))
    dtype = dtypes_of(primitive, algorithm)[0]
    first, second, bias, expected = draw_integers(primitive, problem, dtype, bias="contiguous")
    far = 2**31 + 8
    try:
        memory = [torch.empty(far + 64 * 1024 // 4, dtype=dtype) for _ in range(2)]
    except RuntimeError:
        pytest.skip("no 16 GiB of address space to be had")
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    images = [shape_1, shape_2] if primitive == "grad_weight" else [shape_1, shape_out]
    apart = [m.as_strided(s, (far, s[2] * s[3], s[3], 1)) for m, s in zip(memory, images, strict=True)]
    apart[0].copy_(first)
    if primitive == "grad_weight":
        apart[1].copy_(second)
        actual = emulator.call(primitive, algorithm, *apart, None, problem)
    else:
        actual = apart[1].fill_(float("nan"))
        emulator.run_into(actual, primitive, algorithm, apart[0], second, bias, problem)
    assert_exact(actual, expected, problem)


def test_all_kernels_that_ran_are_counted_and_no_more():
    first, second, bias = draw_reals("forward", REAL, torch.float32)
    emulator.call("forward", "reference", first, second, bias, REAL)
    before = emulator.kernels_run()
    assert any(name.startswith("forward_reference<float>") for name in before)
    emulator.launched(forget=True)
    emulator.configure(dry=True)
    emulator.call("forward", "direct", first, second, bias, REAL)
    assert emulator.kernels_run() == before
    emulator.configure()
    emulator.call("forward", "reference", first, second, bias, REAL)
    assert sum(emulator.kernels_run().values()) == sum(before.values()) + 1


def test_the_reference_is_last_and_the_choice_is_a_row():
    for primitive, rows in emulator.algorithms().items():
        assert list(rows)[-1] == "reference"
        operands = draw_reals(primitive, REAL, torch.float64)
        chosen = emulator.call(primitive, "", *operands, REAL)
        able = [row for row in rows if not emulator.refusal(primitive, row, REAL, torch.float64)]
        assert any(torch.equal(chosen, emulator.call(primitive, row, *operands, REAL)) for row in able)


@pytest.mark.parametrize("primitive, algorithm", ALGORITHMS)
def test_what_an_algorithm_cannot_do_it_refuses(primitive, algorithm):
    shape_1, shape_2, shape_out = REAL.shapes(primitive)
    for dtype in {*emulator.DTYPES} - {*dtypes_of(primitive, algorithm)}:
        first, second, result = (torch.ones(s, dtype=dtype) for s in (shape_1, shape_2, shape_out))
        name = str(dtype)[6:]
        with pytest.raises(RuntimeError, match=f"'{algorithm}' was forced but can't do {primitive} of {name} N1 C4"):
            emulator.run_into(result, primitive, algorithm, first, second, None, REAL)
