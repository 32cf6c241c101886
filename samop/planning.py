"""What a command is going to do: from a config and its axes to points and groups. No training."""

import copy
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from samop import (
    begun,
    environment,
    groups,
    modes,
    processes,
    records,
    shards,
    validation,
    variants,
)
from samop import config as configs
from samop.errors import UserError, nearest
from samop.workloads import build, parameters

Point = Mapping[str, Any]
Axes = Mapping[str, Sequence[Any]]


class Plan(NamedTuple):
    """What a command is going to do.

    Attributes:
      experiment: name of the sweep.
      command: the command line, for the record.
      axes: swept fields and their values, one mapping for each product of axes.
      points: configs by run name, in order.
      run: the config's `run` section.
      profile: folder for a profiler's traces; empty: none.
      shard: (i, n): only the i-th of n parts is trained, from 0.
      own: names of the runs of that part.
    """

    experiment: str
    command: str
    axes: tuple[Axes, ...]
    points: Mapping[str, Point]
    run: Mapping[str, Any]
    profile: str = ""
    shard: tuple[int, int] = (0, 1)
    own: frozenset[str] = frozenset()


def expand(config: Mapping[str, Any], axes: Axes | Sequence[Axes]) -> list[Point]:
    """All runs of a sweep: the product of the axes, the last varying fastest.

    Runs that are the same (ρ is not swept where the optimiser has none) appear once.

    Args:
      config: the full config.
      axes: dotted field → values; or several such, whose products follow each other, where
        optimisers want grids of their own.

    Raises:
      UserError: an axis that is no field or has no values, an invalid run, or a field of the
        perturbation that is set but that no run reads.
    """
    products = [axes] if isinstance(axes, Mapping) else list(axes)
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    points: dict[str, Point] = {}
    unread: dict[str, str] = {}
    read: set[str] = set()
    for product in products:
        _check_axes(product, config)
        for values in itertools.product(*product.values()):
            point = with_fields(plain, dict(zip(product, values)))
            ignored = variants.unread(point["optimizer"])
            unread.update(ignored)
            read.update(set(variants.FIELDS).difference(ignored))
            # What a variant does not read is not said of its runs.
            for field in ignored:
                point["optimizer"][field] = variants.FIELDS[field]
            if point["optimizer"]["name"] == "base":
                point["optimizer"]["rho"] = 0.0
            validation.validate(point)
            points.setdefault(configs.digest(configs.canonical(point)), point)
    for field, reason in unread.items():
        if field not in read:
            value = configs.get(config, f"optimizer.{field}")
            raise UserError(f"optimizer.{field}={value!r} would be ignored: {reason}")
    return list(points.values())


def _check_axes(axes: Axes, config: Mapping[str, Any]) -> None:
    allowed = configs.flatten(config)
    for field, values in axes.items():
        if field not in allowed:
            raise UserError(f"sweep axis {field!r} is no field{nearest(field, allowed)}")
        if not len(values):
            raise UserError(f"sweep axis {field!r} has no values")


def with_fields(plain: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config with some fields set."""
    point = copy.deepcopy(dict(plain))
    for field, value in fields.items():
        *parents, last = field.split(".")
        node = point
        for key in parents:
            node = node[key]
        # ρ = 1 and ρ = 1.0 are one run.
        whole = isinstance(value, int) and not isinstance(value, bool)
        node[last] = float(value) if isinstance(node[last], float) and whole else value
    return point


def plan(
    config: Mapping[str, Any],
    axes: Axes | Sequence[Axes],
    command: str = "",
    shard: tuple[int, int] = (0, 1),
) -> Plan:
    """The plan of a config with its axes; see `expand`, and `shards.own` for the shard."""
    points = {configs.point_name(point): point for point in expand(config, axes)}
    products = (axes,) if isinstance(axes, Mapping) else tuple(axes)
    experiment, profile = config["experiment"], config["profile"]
    own = shards.own(points, *shard)
    return Plan(experiment, command, products, points, config["run"], profile, shard, own)


def devices(run: Mapping[str, Any]) -> list[jax.Device]:
    """The devices that a config's `run` section asks for."""
    found = jax.devices()
    if processes.several() and run["devices"] not in (0, len(found)):
        raise UserError(
            f"run.devices={run['devices']}: several processes use all their devices, {len(found)} "
            "together: use 0"
        )
    if run["devices"] > len(found):
        raise UserError(
            f"run.devices={run['devices']} is more than there are: {len(found)} "
            f"({found[0].platform})"
        )
    return found[: run["devices"] or len(found)]


def pending_groups(plan: Plan, workdir: Path) -> list[groups.Group]:
    """The groups still to train, those begun earlier first; DONE runs are left alone.

    Of a shard: groups of its own runs, and groups formed earlier that hold some of them.
    """
    used = devices(plan.run)
    most = functools.partial(modes.most_runs, run=plan.run, used=used)
    batch = functools.partial(modes.shared_batch, run=plan.run, used=used)
    fresh = fresh_points(plan, workdir)
    return _unfinished(plan, workdir) + groups.form(fresh, len(used), most, batch)


def _unfinished(plan: Plan, workdir: Path) -> list[groups.Group]:
    """Groups begun earlier and not at their end.

    A group with a DONE run has been trained to its end. Where one of its other runs has lost its
    folder since, that run trains anew in a group of its own.
    """
    unfinished = []
    for group in groups.frozen(workdir, plan.points, plan.own):
        if _is_unfinished(group, workdir):
            unfinished.append(group)
    return unfinished


def _is_unfinished(group: groups.Group, workdir: Path) -> bool:
    done = [is_done(workdir, name) for name in group.names]
    return not any(done) or (not all(done) and begun.is_trained(group, workdir))


def is_open(group: groups.Group, workdir: Path) -> bool:
    """Whether a group that was to be trained when it was planned still is.

    Another worker may have trained it since, or divided it.
    """
    if not (workdir / "groups" / group.name / groups.MEMBERS).exists():
        return False
    if not _is_unfinished(group, workdir):
        return False
    whole = len(group.names) == 1 or begun.is_begun(group, workdir)
    return whole or group.name not in groups.replaced(workdir)


def fresh_points(plan: Plan, workdir: Path) -> list[Point]:
    """The runs that no group has begun; of a shard its own."""
    taken = {name for group in _unfinished(plan, workdir) for name in group.names}
    return [
        point
        for name, point in plan.points.items()
        if name in plan.own and name not in taken and not is_done(workdir, name)
    ]


def is_done(workdir: Path, name: str) -> bool:
    """Whether a run is finished."""
    return (workdir / "points" / name / "DONE").exists()


def freeze(group: groups.Group, plan: Plan, workdir: Path, replaces: str = "") -> None:
    """Writes a new group's members and mode; see `groups.freeze` for `replaces`."""
    folder = workdir / "groups" / group.name
    if not (folder / groups.MEMBERS).exists():
        choice = modes.choose(group.points[0], plan.run, devices(plan.run))
        how = {**choice._asdict(), **({"replaces": replaces} if replaces else {})}
        groups.freeze(group, folder, how)


def write_plan(plan: Plan, workdir: Path) -> None:
    """Writes plan.json and, for each run that is new, its folder with config.json.

    All runs, also where a shard trains only some: so that shards' folders can be merged.
    """
    axes = [{f: list(values) for f, values in product.items()} for product in plan.axes]
    surroundings = environment.describe()
    for name, point in plan.points.items():
        folder = workdir / "points" / name
        if (folder / "DONE").exists() and not _is_whole(folder / "DONE", *begun.DONE):
            (folder / "DONE").unlink()  # made again of what it says, or trained again
        if _is_whole(folder / "config.json", "name", "config"):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        workload = build(point)
        value = {
            "name": name,
            "experiment": plan.experiment,
            "config": configs.to_json(point),
            "width": configs.width_label(point),
            "parameters": parameters(point),
            "metric": workload.metric._asdict(),
            "data": dict(workload.source),
            "train_metrics_at": (
                "perturbed weights"
                if point["optimizer"]["name"] in variants.EVALUATE_ELSEWHERE
                else "weights"
            ),
            "environment": surroundings,
        }
        records.write_sealed(folder / "config.json", value, sync=False)
    value = {
        "experiment": plan.experiment,
        "command": plan.command,
        "axes": axes,
        "points": list(plan.points),
    }
    records.write_json(workdir / "plan.json", value)


def _is_whole(file: Path, *keys: str) -> bool:
    """Whether a file is there and undamaged, with these fields; damage is named in a warning."""
    if not file.exists():
        return False
    try:
        records.read_json(file, *keys)
    except records.CorruptRecord as error:
        logging.warning("%s; writing it again", error)
        return False
    return True
