"""Shards: a partition of the sweep that is balanced, depends on its runs alone, and merges."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import point, small_plan

from samop import cli, groups, plans, shards, sweep, timings
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
DIGITS = f"--config={ROOT / 'configs' / 'digits_width.py'}"
AXES = {
    "model.hidden": ((4, 4), (8, 8), (64, 64)),
    "optimizer.name": ("base", "sam", "looksam"),
    "optimizer.rho": (0.05, 0.2),
    "seed": (0, 1, 2, 3, 4),
}


@pytest.fixture(scope="module")
def points():
    return sweep.plan(point(), AXES, "").points


def names(part):
    return [name for unit in part for name in unit.names]


@pytest.mark.parametrize("count", [*range(1, 8), 100])
def test_shards_partition_the_sweep(points, count):
    parts = shards.divide(points, count)
    assert len(parts) == count
    assert sorted(name for part in parts for name in names(part)) == sorted(points)
    for index, part in enumerate(parts):
        assert shards.own(points, index, count) == set(names(part))
    if count == 100:
        assert [] in parts


@pytest.mark.parametrize("count", range(1, 8))
def test_shards_are_balanced(points, count):
    parts = shards.divide(points, count)
    loads = [sum(unit.cost for unit in part) for part in parts]
    total = sum(timings.cost(p) for p in points.values())
    assert sum(loads) == pytest.approx(total)
    largest = max(unit.cost for part in parts for unit in part)
    assert max(loads) <= total / count + largest
    # No unit is dearer than a share, but a single row of seeds.
    for part in parts:
        for unit in part:
            seeds = {points[name]["seed"] for name in unit.names}
            assert unit.cost <= total / count * (1 + 1e-6) or len(seeds) == 1


def test_a_unit_shares_a_program_and_keeps_rows_of_seeds_whole(points):
    for unit in shards.units(points, 7):
        (formed,) = groups.form([points[name] for name in unit.names], 1, lambda _: 1000)
        assert set(formed.names) == set(unit.names)
        alike = [n for n, p in points.items() if _family(p) == _family(points[unit.names[0]])]
        for seed in {points[name]["seed"] for name in unit.names}:
            row = {name for name in alike if points[name]["seed"] == seed}
            assert row <= set(unit.names)


def _family(config):
    return (config["model"]["hidden"], config["optimizer"]["name"])


def test_pieces_are_as_few_as_will_do():
    one = sweep.plan(point(), {"seed": range(10)}, "").points
    assert [len(unit.names) for unit in shards.units(one, 1)] == [10]
    assert [len(unit.names) for unit in shards.units(one, 2)] == [5, 5]
    assert sorted(len(unit.names) for unit in shards.units(one, 3)) == [2, 2, 3, 3]
    assert [len(unit.names) for unit in shards.units(one, 99)] == [1] * 10


def test_families_are_cut_finer_where_parts_would_be_uneven():
    """Two families of two seeds, one 1 to 2 dearer: whole, they would be 33 and 67 per cent."""
    axes = {"optimizer.name": ("base", "sam"), "seed": (0, 1)}
    points = sweep.plan(point(optimizer__rho=0.05), axes, "").points
    parts = shards.divide(points, 2)
    loads = [sum(unit.cost for unit in part) for part in parts]
    assert max(loads) <= shards.EVEN * sum(loads) / 2
    assert [len(names(part)) for part in parts] == [2, 2]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_order_of_axes_and_their_values_changes_nothing(points, count):
    turned = {field: tuple(reversed(values)) for field, values in reversed(AXES.items())}
    others = sweep.plan(point(), turned, "").points
    assert list(others) != list(points)
    for index in range(count):
        assert shards.own(points, index, count) == shards.own(others, index, count)


def test_devices_times_and_what_is_done_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOP_CACHE", str(tmp_path / "cache"))
    plan = small_plan({"seed": (0, 1, 2)}, run__devices=1)
    before = [shards.own(plan.points, i, 2) for i in range(2)]
    sweep.run(plan, tmp_path / "w")
    again = [
        sweep.plan(point(run__devices=devices), {"seed": (0, 1, 2)}, "", (i, 2)).own
        for devices in (1, 2)
        for i in range(2)
    ]
    assert again == before * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "should be i/n"),
        ("/", "should be i/n"),
        ("1", "should be i/n, the i-th of n shards, as in --shard=0/4"),
        ("a/2", "should be i/n"),
        ("-1/2", "should be i/n"),
        ("1/2/3", "should be i/n"),
        ("1.0/2", "should be i/n"),
        ("0/0", "one shard or more"),
        ("2/2", "i counts from 0 to n − 1, here to 1"),
    ],
)
def test_bad_shards_are_one_clear_line(text, words):
    with pytest.raises(UserError, match=words) as caught:
        cli.parse([f"{DIGITS}:smoke", f"--shard={text}"])
    assert f"--shard={text} is not allowed" in str(caught.value)
    assert "\n" not in str(caught.value)


def slurm(monkeypatch, task, count, first=0):
    for name, value in {"ID": task, "COUNT": count, "MIN": first}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    line = "--shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
    shell = subprocess.run(["sh", "-c", f"echo {line}"], capture_output=True, text=True)
    return shell.stdout.strip()


def test_a_slurm_array_is_a_row_of_shards(monkeypatch):
    for task in range(4):
        assert cli.parse([f"{DIGITS}:smoke", slurm(monkeypatch, task, 4)]).shard == (task, 4)


@pytest.mark.parametrize("task", [1, 2, 4])
def test_a_slurm_array_that_begins_at_1_is_refused_by_every_task(monkeypatch, task):
    with pytest.raises(UserError, match=r"--array=0-3, not one that begins at 1"):
        cli.parse([f"{DIGITS}:smoke", slurm(monkeypatch, task, 4, first=1)])


def test_the_record_is_of_the_whole_sweep():
    request = cli.parse([f"{DIGITS}:smoke", "--shard=1/2", "--workdir=there"])
    assert request.shard == (1, 2)
    assert "--shard" not in request.command
    assert request.command.endswith("--workdir=there")
    request = cli.parse([f"{DIGITS}:smoke", "--shard", "1/2", "--workdir=there"])
    assert request.shard == (1, 2)
    assert request.command.endswith(":smoke --workdir=there")


def test_the_plan_says_what_a_shard_is(tmp_path):
    whole = small_plan(AXES)
    said = plans.describe(whole, tmp_path)
    assert "shard" not in said
    shares, runs, programs = 0, 0, 0
    for index in range(3):
        plan = sweep.plan(point(), AXES, "", (index, 3))
        (line,) = (x for x in plans.describe(plan, tmp_path).splitlines() if "shard" in x)
        words = line.split()
        assert words[:2] == ["shard", f"{index}/3:"]
        assert line.endswith("% of the cost")
        assert "of 75 runs" in line
        runs, shares = runs + int(words[2]), shares + int(words[6])
        programs += len(sweep.pending_groups(plan, tmp_path))
    assert runs == len(whole.points) == 75
    assert abs(shares - 100) <= 2
    assert programs >= len(sweep.pending_groups(whole, tmp_path))


SMALL = {"model.hidden": ((4, 4), (5, 5)), "optimizer.name": ("base", "sam"), "seed": (0, 1)}


def trained(workdir, shard):
    plan = sweep.plan(point(run__devices=1), SMALL, "command", shard)
    others = sweep.run(plan, workdir)
    return plan, plans.unfinished(plan, workdir, others)


def record_of(workdir):
    found = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert trained(workdir, (0, 1))[1] == ""
    return record_of(workdir)


@pytest.mark.parametrize("folders", ["one", "own"])
def test_two_shards_are_the_sweep_bit_for_bit(whole, tmp_path, folders):
    places = [tmp_path / "a", tmp_path / ("a" if folders == "one" else "b")]
    plan, said = trained(places[0], (0, 2))
    assert set(record_of(places[0])) == plan.own < set(plan.points)
    assert said.startswith(f"{len(plan.own)} of 8 runs of all shards are done")
    assert {p.name for p in (places[0] / "points").iterdir()} == set(plan.points)
    assert json.loads((places[0] / "plan.json").read_text())["points"] == list(plan.points)
    trained(places[1], (1, 2))
    if folders == "own":
        subprocess.run(["cp", "-r", f"{places[1]}/.", str(places[0])], check=True)
    assert record_of(places[0]) == whole
    plan, said = trained(places[0], (0, 1))
    assert said == ""
    assert record_of(places[0]) == whole
    for timing in places[0].glob("points/*/timing.jsonl"):
        assert timing.read_text().count("\n") == 1


def test_a_group_begun_whole_stays_whole(whole, tmp_path):
    """Its worker died before it; then whichever shard holds some of it takes it."""
    everything = small_plan(SMALL, run__devices=1)
    for group in sweep.pending_groups(everything, tmp_path):
        sweep.write_plan(everything, tmp_path)
        sweep.freeze(group, everything, tmp_path)
    shutil.copytree(tmp_path, tmp_path / "again")
    plan, _ = trained(tmp_path / "again", (0, 5))
    assert len(plan.own) == 1
    (group,) = (p for p in (tmp_path / "again" / "groups").iterdir() if (p / "final").exists())
    held = json.loads((group / groups.MEMBERS).read_text())["points"]
    assert plan.own <= set(held)
    assert record_of(tmp_path / "again") == {name: whole[name] for name in held}


def test_a_command_of_one_shard_ends_well_without_the_others(tmp_path):
    command = [sys.executable, "-m", "samop.main", f"{DIGITS}:smoke,width=4-4"]
    fields = ["--config.train.epochs=2", "--config.sweep.seeds=2"]
    out = subprocess.run(
        [*command, *fields, f"--workdir={tmp_path}", "--shard=1/3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    assert "shard 1/3: " in out.stdout
    assert "runs of all shards are done" in out.stdout
    assert "samop.report" in out.stdout
