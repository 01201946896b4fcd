"""Times several callables against one another: in turns, in one process, the first call apart, the median of the rest.

In turns, because a machine's clock and its neighbours drift: what one callable meets, the others meet in the same
second. And in another order each round, because what ran just before counts, too.
"""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

GRAPH_SECONDS, MOST_CALLS = 2e-3, 50  # how long the calls that a GPU makes in a row take together, and how many


def with_gradients(call: Callable[[], torch.Tensor], *leaves: torch.Tensor) -> Callable[[], Any]:
    """The call and its backward pass to the leaves, for a gradient of ones."""
    with torch.no_grad():
        ones = torch.ones_like(call())

    def both() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(call(), leaves, ones)

    return both


class Timing(NamedTuple):
    first: float  # seconds of the first call: what is set up, compiled or chosen on the way is in it
    median: float  # seconds of a later one
    rounds: int
    result: Any  # what the first call returned


def seconds_of(call: Callable[[], Any], calls: int, device: str) -> tuple[float, Any]:
    """Seconds of one call, averaged over `calls` in a row, and the last one's result."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            result = call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / calls, result
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    return (time.perf_counter() - start) / calls, result


def as_graph(call: Callable[[], Any], calls: int) -> Callable[[], None]:
    """`calls` calls in a row as one CUDA graph, which a GPU goes through by itself: no processor is waited for."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def interleaved(
    callables: dict[str, Callable[[], Any]], device: str, seconds: float = 0.5, rounds: tuple[int, int] = (3, 200),
    graphs: bool = False,
) -> dict[str, Timing]:  # fmt: skip
    """Runs all callables in turns: at least rounds[0] times, then until `seconds` are over or rounds[1] are done.

    With `graphs`, for a GPU, calls are recorded as a CUDA graph and the medians are the GPU's own time. Otherwise a
    layer whose kernels take less time than its call on the processor is timed by that call.
    """
    with torch.no_grad():
        first = {name: seconds_of(call, 1, device) for name, call in callables.items()}
        # On a GPU a call returns before its work is done: many in a row, or the launch would be what is timed.
        warm = {name: seconds_of(call, 1, device)[0] for name, call in callables.items()}
        calls = {n: max(1, min(MOST_CALLS, int(GRAPH_SECONDS / warm[n]))) if device == "cuda" else 1 for n in warm}
        timed, per_run = dict(callables), dict.fromkeys(callables, 1)
        if graphs and device == "cuda":
            timed, per_run, calls = {n: as_graph(callables[n], calls[n]) for n in calls}, calls, per_run
        times: dict[str, list[float]] = {name: [] for name in callables}
        order, shuffle = list(callables), random.Random(0).shuffle  # the same orders each time
        started = time.perf_counter()
        for done in range(1, rounds[1] + 1):
            shuffle(order)
            for name in order:
                times[name].append(seconds_of(timed[name], calls[name], device)[0] / per_run[name])
            if done >= rounds[0] and time.perf_counter() - started > seconds:
                break
    return {
        name: Timing(first[name][0], statistics.median(times[name]), len(times[name]), first[name][1])
        for name in callables
    }
