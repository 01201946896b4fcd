"""A covering sample of a cross product: every pair of values of every two factors occurs in some row.

Most bugs show in the meeting of two things (a dtype with a layout, a stride with a padding mode), and covering all
pairs takes about as many rows as the two largest factors multiplied, where the product takes all of them multiplied.
"""

from __future__ import annotations

from itertools import combinations
from random import Random


def covering(*factors) -> list[tuple]:
    """Rows with one value of each factor, such that all pairs are covered.

    Greedy: start from a pair not covered yet, then give each other factor the value that covers most new pairs.
    """
    factors = [list(f) for f in factors]
    rng = Random(0)  # ties are broken at random, or the first values would meet more often than the rest
    order = range(len(factors))
    missing = {
        (i, a, j, b): None  # a dict, not a set: its order is the same in every run
        for i, j in combinations(order, 2)
        for a in range(len(factors[i]))
        for b in range(len(factors[j]))
    }
    rows = []
    while missing:
        i, a, j, b = next(iter(missing))
        row = {i: a, j: b}
        for f in order:
            if f not in row:
                row[f] = max(
                    range(len(factors[f])),
                    key=lambda v, f=f: (
                        sum(_pair(f, v, g, w) in missing for g, w in row.items()),
                        rng.random(),
                    ),
                )
        for i, j in combinations(order, 2):
            missing.pop((i, row[i], j, row[j]), None)
        rows.append(tuple(factors[f][row[f]] for f in order))
    return rows


def _pair(f, v, g, w):
    return (f, v, g, w) if f < g else (g, w, f, v)
