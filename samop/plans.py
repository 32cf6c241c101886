"""A plan in words: what `--dry_run` prints."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from samop import config as configs
from samop import environment, modes, needs, shards, sweep, timings
from samop.progress import duration
from samop.workloads import build, parameters


def describe(plan: sweep.Plan, workdir: Path, foretell: bool = False) -> str:
    """The sweep in a few lines: axes, widths with parameters, data, devices, expected time.

    Args:
      plan, workdir: of the command.
      foretell: whether also the memory, for which large networks are compiled.
    """
    points = list(plan.points.values())
    done = sum(sweep.is_done(workdir, name) for name in plan.points)
    todo = sweep.pending_groups(plan, workdir)
    widths = {configs.width_label(p): f"{parameters(p):,}" for p in points}
    sources = {p["data"]["name"]: build(p).source for p in points}
    used = sweep.devices(plan.run)
    kind = environment.processor() if used[0].platform == "cpu" else used[0].device_kind
    lines = [
        f"{plan.experiment}: {len(points)} runs, {done} of them done; work folder {workdir}",
        *_axes(plan),
        f"  parameters: {', '.join(f'{width}: {n}' for width, n in widths.items())}",
        f"  epochs: {_range(configs.epochs, points)}, batch size: "
        + _range(lambda p: p["train"]["batch_size"], points),
        *(f"  data: {name}, {_source(source)}" for name, source in sources.items()),
        f"  devices: {len(used)} × {used[0].platform} ({kind}), jax {jax.__version__}",
        *_shard(plan),
        f"  programs to compile: {len(todo)}; expected time: {_expected(todo)}",
        *(needs.lines(todo, workdir, used) if foretell else []),
        *_together(sweep.fresh_points(plan, workdir), plan, used),
        *_drowned(points),
    ]
    return "\n".join(lines)


def unfinished(plan: sweep.Plan, workdir: Path, others: Sequence[str]) -> str:
    """What a command says at its end while others train still; "": nobody does, or all is done.

    Args:
      plan, workdir: of the command.
      others: who trains still, as `sweep.run` says.
    """
    done = sum(sweep.is_done(workdir, name) for name in plan.points)
    if done == len(plan.points) or not (others or plan.shard[1] > 1):
        return ""
    lines = [f"{who}: {n} group{'s' * (n > 1)} of runs" for who, n in Counter(others).items()]
    still = f"; still training: {', '.join(lines)}" if lines else ""
    shard = " of all shards" if plan.shard[1] > 1 else ""
    return (
        f"{done} of {len(plan.points)} runs{shard} are done{still}. "
        "The command that ends last writes the report"
        + (
            " (of shards in folders of their own: once they are merged, samop.report)"
            if shard
            else ""
        )
    )


def _shard(plan: sweep.Plan) -> list[str]:
    """Which part of the sweep this command trains; nothing where it is all of it."""
    index, count = plan.shard
    if count == 1:
        return []
    own = {name: plan.points[name] for name in plan.own}
    share = f"{100 * shards.cost(own) / shards.cost(plan.points):.0f} % of the cost"
    return [f"  shard {index}/{count}: {len(own)} of {len(plan.points)} runs, {share}"]


def _drowned(points: list[Any]) -> list[str]:
    """A warning where label noise leaves the true label no more frequent than any other."""
    found = set()
    for point in points:
        rate, classes = point["data"]["label_noise"], build(point).num_classes
        if classes and rate >= 1 - 1 / classes:
            found.add(
                f"  warning: data.label_noise={rate:g} with {classes} classes leaves the true "
                "label no more frequent than each wrong one: nothing can be learned from it"
            )
    return sorted(found)


def _together(points: list[Any], plan: sweep.Plan, used: Any) -> list[str]:
    """How runs of each width train together, and how that is known."""
    timed = modes.untimed(points, plan.run, used).values()
    unknown = {configs.width_label(alike[0]) for alike in timed}
    found: dict[str, list[str]] = {}
    for width, point in {configs.width_label(p): p for p in points}.items():
        choice = modes.choose(point, plan.run, used)
        how = "to be timed" if width in unknown else f"{choice.mode} ({choice.why})"
        found.setdefault(how, []).append(width)
    text = "; ".join(f"{', '.join(same)}: {how}" for how, same in found.items())
    return [f"  together: {text}"] if text else []


def _expected(todo: list[Any]) -> str:
    seconds, known = timings.expected(todo)
    if not todo:
        return "none, everything is done"
    if known < len(todo):
        return f"not known yet ({known} of {len(todo)} were timed on this machine before)"
    return f"{duration(seconds)} of training, plus compilation"


def _source(source: Mapping[str, str]) -> str:
    return f"from {source['origin']}" + (" (cached)" if source["kind"] == "cache" else "")


def _axes(plan: sweep.Plan) -> list[str]:
    """The axes, a line each; of further products what they do not share with the first."""
    first, *others = plan.axes
    lines = [f"  {field}: {', '.join(map(_value, values))}" for field, values in first.items()]
    for product in others:
        own = {field: values for field, values in product.items() if first.get(field) != values}
        parts = [f"{field}: {', '.join(map(_value, values))}" for field, values in own.items()]
        lines.append("  and " + "; ".join(parts))
    return lines


def _range(of: Callable[[Any], int], points: list[Any]) -> str:
    return ", ".join(map(str, sorted(set(map(of, points)))))


def _value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
