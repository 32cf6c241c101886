"""Runs that train together: which, in what order, on which layout — frozen before their first step.

Killed and resumed equals never killed only if a group is put together in the same way again, since
another vmapped extent or device count changes roundings. So a group's membership, order and
layout are written to `groups/<name>/members.json` once and never decided again.
"""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samop import config as configs
from samop import processes, records
from samop.errors import UserError
from samop.layouts import Layout, check, layout

Point = Mapping[str, Any]
MEMBERS = "members.json"


class Group(NamedTuple):
    """A full grid of seeds × cells that share static fields.

    Attributes:
      name: the group's folder: a digest of its members.
      names: the runs' folders, in order, seed by seed.
      points: the runs' configs, in the same order.
      layout: how the grid lies on devices.
    """

    name: str
    names: tuple[str, ...]
    points: tuple[Point, ...]
    layout: Layout

    @property
    def seeds(self) -> list[int]:
        """One seed a row of the grid."""
        return [point["seed"] for point in self.points[:: self.layout.cells]]

    @property
    def cells(self) -> dict[str, list[float]]:
        """For each traced field its values, one a column of the grid."""
        row = self.points[: self.layout.cells]
        return {field: [float(configs.get(p, field)) for p in row] for field in configs.TRACED}

    @property
    def rhos(self) -> list[float]:
        """ρ of each run."""
        return [float(point["optimizer"]["rho"]) for point in self.points]


def make(rows: Sequence[Sequence[Point]], devices: int, batch: int = 1) -> Group:
    """A new group from a grid of configs, one row a seed; arguments as for `sharding.layout`.

    Of several processes all devices take part.

    Raises:
      UserError: the devices cannot divide the batches as the config's `parallel` wants it.
    """
    points = tuple(point for row in rows for point in row)
    names = tuple(configs.point_name(point) for point in points)
    parallel = points[0]["parallel"] if batch > 1 else "jit"
    several = processes.several()
    grid = layout(len(rows), len(rows[0]), devices, batch, several)._replace(parallel=parallel)
    shards = points[0].get("run", {}).get("shard_parameters", False)
    grid = grid._replace(divided=shards and grid.batch > 1)
    if parallel == "pmap":
        if batch % devices:
            fits = [n for n in range(1, devices) if batch % n == 0]
            raise UserError(
                f"train.batch_size={batch} cannot be divided by the {devices} devices that "
                f"parallel='pmap' uses: use run.devices={fits[-1]}, a batch size that is a "
                f"multiple of {devices}, or parallel='jit'"
            )
        grid = grid._replace(rows=1, columns=1, batch=devices)
    check(points[0], grid)
    return Group(configs.digest(names), names, points, grid)


def form(
    points: Sequence[Point],
    devices: int,
    most: Callable[[Point], int],
    batch: Callable[[Point], int] = lambda point: 1,
) -> list[Group]:
    """Groups that cover `points`, in their order.

    Args:
      points: configs of runs, all different.
      devices: number of devices to lay groups out on.
      most: largest number of runs in a group of runs like the given one.
      batch: size of the batches that devices which are left over may share; 1: they do not.
    """
    families: dict[str, dict[int, list[Point]]] = {}
    for point in points:
        seeds = families.setdefault(configs.digest(configs.static(point)), {})
        seeds.setdefault(point["seed"], []).append(point)
    groups = []
    for by_seed in families.values():
        # A group is a full grid, so seeds with different cells go into different ones.
        grids: dict[str, list[list[Point]]] = {}
        for row in by_seed.values():
            row = sorted(row, key=_cell)
            grids.setdefault(json.dumps([_cell(p) for p in row]), []).append(row)
        for rows in grids.values():
            groups += _divide(rows, devices, most(rows[0][0]), batch(rows[0][0]))
    return groups


def _cell(point: Point) -> list[float]:
    return [configs.get(point, field) for field in configs.TRACED]


def _divide(rows: list[list[Point]], devices: int, most: int, batch: int) -> list[Group]:
    """Cuts a grid into groups of at most `most` runs, along the side that wastes fewer devices."""
    seeds, cells = len(rows), len(rows[0])
    choices = []
    for by_seeds in (True, False):
        tall = min(seeds, most if by_seeds else max(1, most // cells))
        wide = min(cells, max(1, most // tall) if by_seeds else most)
        groups = []
        for i in range(0, seeds, tall):
            for j in range(0, cells, wide):
                part = [row[j : j + wide] for row in rows[i : i + tall]]
                groups.append(make(part, devices, batch))
        choices.append(groups)
    return min(choices, key=lambda gs: sum(g.layout.padded[0] * g.layout.padded[1] for g in gs))


def freeze(group: Group, folder: Path, how: Mapping[str, Any]) -> None:
    """Writes the group's members, and how they were put together, before its first step.

    Args:
      group, folder: the group and its folder.
      how: plain values. "replaces" names a group that this one is a part of and that is no more,
        from the moment that this file is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    value = {"points": list(group.names), "layout": group.layout._asdict(), "how": dict(how)}
    records.write_sealed(folder / MEMBERS, value)


def thaw(group: Group, folder: Path) -> None:
    """Undoes `freeze` for a group that has not taken a step."""
    (folder / MEMBERS).unlink()
    folder.rmdir()


def frozen(
    workdir: Path, points: Mapping[str, Point], own: Container[str] | None = None
) -> list[Group]:
    """Groups begun earlier that hold any of `points` (by name), or of those of them in `own`.

    A group begun earlier goes on whole, also where a changed sweep names only some of its runs.

    Raises:
      UserError: a members.json that cannot be read.
    """
    found_groups, replaced = [], set()
    for name, (names, grid, replaces) in _members(workdir).items():
        replaced.add(replaces)
        if any(run in (points if own is None else own) for run in names):
            found = tuple(points.get(run) or read_point(workdir, run) for run in names)
            found_groups.append(Group(name, names, found, grid))
    return [group for group in found_groups if group.name not in replaced]


def replaced(workdir: Path) -> set[str]:
    """Names of groups that were divided."""
    return {replaces for _, _, replaces in _members(workdir).values()}


def _members(workdir: Path) -> dict[str, tuple[tuple[str, ...], Layout, str]]:
    """Of each frozen group its runs, its layout and which group it replaces ("": none)."""
    found = {}
    for file in sorted((workdir / "groups").glob(f"*/{MEMBERS}")):
        try:
            members = records.read_json(file)
            names, grid = tuple(members["points"]), Layout(**members["layout"])
            replaces = str(members.get("how", {}).get("replaces", ""))
        except FileNotFoundError:
            continue  # divided by another worker since it was listed
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} cannot be read ({error}): remove the folder {file.parent} to train its "
                "runs again"
            ) from None
        found[file.parent.name] = names, grid, replaces
    return found


def told(group: Group) -> list[Any]:
    """A group as plain values, for other processes, which may not see its files yet."""
    return [group.name, list(group.names), group.layout._asdict()]


def heard(told: Sequence[Any], workdir: Path, points: Mapping[str, Point]) -> Group:
    """The inverse of `told`; configs that are not among `points` are on the disk for long."""
    name, names, grid = told
    found = tuple(points.get(run) or read_point(workdir, run) for run in names)
    return Group(name, tuple(names), found, Layout(**grid))


def read_point(workdir: Path, name: str) -> Point:
    """The config of a run that an earlier command planned."""
    file = workdir / "points" / name / "config.json"
    try:
        plain = records.read_json(file)["config"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    return configs.from_json(plain).to_dict()
