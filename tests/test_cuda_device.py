"""What only a GPU can show: kernels run in the order of the current stream, can be captured in a graph, and run on the
device of their operands. Exact integers, every algorithm.

`make cuda-sanitize` runs this file, and no other, under compute-sanitizer.
"""

import pytest
import torch
from choices import call, forced
from conftest import ALGORITHMS, DEVICES, FLOATING
from exact import assert_exact, draw_integers
from problems import Problem

if "cuda" not in DEVICES:
    pytest.skip("no GPU, or convx is built without CUDA", allow_module_level=True)

ROWS = [(primitive, algorithm) for device, primitive, algorithm in ALGORITHMS if device == "cuda"]
PROBLEMS = {
    "ugly": Problem(2, 4, 19, 18, 6, 3, 2, (2, 1), (1, 0), (2, 1), G=2),
    "dense": Problem(2, 40, 14, 17, 72, 3, 3, padding=(1, 1)),
    "depthwise": Problem(2, 24, 21, 33, 24, 5, 5, padding=(2, 2), G=24),
    "transposed": Problem(1, 33, 24, 20, 17, 4, 4, (2, 2), (1, 1)),
    "reflected": Problem(2, 8, 12, 13, 16, 3, 3, padding=(2, 1), mode="reflect"),
    "split": Problem(8, 16, 32, 31, 24, 3, 3, padding=(1, 1)),  # a weight gradient that many blocks share
}


def runs(primitive, algorithm, dtype, seed=0):
    """(a call of the algorithm on operands, its operands on the GPU, the exact result) for each problem it can do."""
    for name, problem in PROBLEMS.items():
        first, second, bias, expected = draw_integers(primitive, problem, dtype, "cuda", bias="contiguous", seed=seed)

        def run(*operands, problem=problem):
            with forced(primitive, algorithm):
                return call(primitive, *operands, problem)

        try:
            run(first, second, bias)
        except RuntimeError as refused:
            if "was forced but can't do" not in str(refused):
                raise
            continue
        yield f"{algorithm} {primitive} of {name}, {dtype}", run, (first, second, bias), expected


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_in_the_order_of_another_stream(primitive, algorithm, dtype):
    """The operands come late on a stream that is busy: who runs on another one finds NaN."""
    stream = torch.cuda.Stream()
    for what, run, operands, expected in runs(primitive, algorithm, dtype):
        late = [None if t is None else torch.full_like(t, float("nan")) for t in operands]
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # cycles: about 10 ms
            for t, value in zip(late, operands, strict=True):
                if t is not None:
                    t.copy_(value)
            result = run(*late)
        stream.synchronize()
        assert_exact(result, expected, what)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_captured_in_a_graph(primitive, algorithm, dtype):
    """A replay computes from what the operands hold then."""
    later = {what: (operands, expected) for what, _, operands, expected in runs(primitive, algorithm, dtype, seed=1)}
    for what, run, operands, _ in runs(primitive, algorithm, dtype):
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            result = run(*operands)
        values, expected = later[what]
        for t, value in zip(operands, values, strict=True):
            if t is not None:
                t.copy_(value)
        for _ in range(2):
            result.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert_exact(result, expected, what)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_on_a_second_device(primitive, algorithm, dtype):
    assert torch.cuda.current_device() == 0
    for what, run, operands, expected in runs(primitive, algorithm, dtype):
        result = run(*(None if t is None else t.to("cuda:1") for t in operands))
        assert result.device == torch.device("cuda:1")
        assert_exact(result, expected, what)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_exact_and_the_same_again(primitive, algorithm, dtype):
    for what, run, operands, expected in runs(primitive, algorithm, dtype):
        for _ in range(3):
            assert_exact(run(*operands), expected, what)
