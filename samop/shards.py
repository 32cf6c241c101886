"""A sweep in n parts of about equal cost, for n machines that need not know of each other.

Which runs are in which part depends on the sweep's runs alone: not on the order of the axes, the
machine, its devices, or what is done already. So parts that are trained anywhere fit together.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from samop import config as configs
from samop import timings

Point = Mapping[str, Any]
LEAST = 1e-9  # differences of costs that rounding makes
EVEN = 1.1  # the dearest part against the mean, from which on families are not cut finer
FINER = (1, 2, 4, 8)  # pieces of families hold at most a part's fair share over this


class Unit(NamedTuple):
    """Runs that go to one part together: of equal static fields, so that they share a program.

    Attributes:
      cost: theirs, in the units of `timings.cost`.
      key: what the static fields are known by, and which piece of them this is.
      names: the runs.
    """

    cost: float
    key: tuple[str, int]
    names: tuple[str, ...]


def own(points: Mapping[str, Point], index: int, count: int) -> frozenset[str]:
    """Names of the runs in the `index`-th of `count` parts of a sweep."""
    if count == 1:
        return frozenset(points)
    return frozenset(name for unit in divide(points, count)[index] for name in unit.names)


def divide(points: Mapping[str, Point], count: int) -> list[list[Unit]]:
    """The parts of a sweep, of about equal cost.

    Programs are shared within a piece of a family alone, so families are cut no finer than it takes
    for parts that are `EVEN`, or as even as they come.

    Args:
      points: the runs' configs by name.
      count: number of parts; some are empty where there are fewer units.
    """
    best, least = [], math.inf
    for finer in FINER:
        parts = _deal(units(points, count * finer), count)
        loads = [math.fsum(unit.cost for unit in part) for part in parts]
        if max(loads) < least * (1 - LEAST):
            best, least = parts, max(loads)
        if least * count <= EVEN * math.fsum(loads):
            break
    return best


def _deal(found: Sequence[Unit], count: int) -> list[list[Unit]]:
    """The dearest unit first, each to the part that has least so far."""
    loads = [0.0] * count
    parts: list[list[Unit]] = [[] for _ in range(count)]
    for unit in sorted(found, key=lambda unit: (-unit.cost, unit.key)):
        least = loads.index(min(loads))
        loads[least] += unit.cost
        parts[least].append(unit)
    return parts


def units(points: Mapping[str, Point], count: int) -> list[Unit]:
    """What is dealt out: families of runs, those of more than a share of the cost in pieces.

    A piece is whole rows of seeds, since a row shares its batches; there are as few pieces as make
    each cost a `count`-th of the sweep at most, or one a row.
    """
    families: dict[str, dict[int, list[str]]] = {}
    costs: dict[str, float] = {}
    for name, point in points.items():
        family = configs.digest(configs.static(point), 16)
        families.setdefault(family, {}).setdefault(point["seed"], []).append(name)
        if family not in costs:
            costs[family] = timings.cost(point)
    runs = {family: sum(map(len, rows.values())) for family, rows in families.items()}
    share = math.fsum(runs[family] * costs[family] for family in families) / count
    found = []
    for family, by_seed in families.items():
        rows = [sorted(names) for _, names in sorted(by_seed.items())]
        for number, piece in enumerate(_pieces(rows, share / costs[family])):
            names = tuple(name for row in piece for name in row)
            found.append(Unit(len(names) * costs[family], (family, number), names))
    return found


def cost(points: Mapping[str, Point]) -> float:
    """Cost of all these runs."""
    return math.fsum(timings.cost(point) for point in points.values())


def _pieces(rows: Sequence[list[str]], most: float) -> list[Sequence[list[str]]]:
    """Rows in as few even pieces as hold at most `most` runs each; a row is never cut."""
    pieces = [rows]
    for number in range(1, len(rows) + 1):
        edges = [round(i * len(rows) / number) for i in range(number + 1)]
        pieces = [rows[a:b] for a, b in itertools.pairwise(edges)]
        if max(sum(map(len, piece)) for piece in pieces) <= most * (1 + LEAST):
            break
    return pieces
