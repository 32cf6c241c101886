"""Sweeps: what they expand to, how runs are grouped, and that nothing can spoil a work folder."""

import json
import shutil

import jax
import numpy as np
import pytest
from small import AXES, grid, point, small_plan

from samop import checkpoint, groups, loop, records, sweep
from samop import config as configs
from samop.errors import UserError
from samop.workloads import build


def names(plan):
    return list(plan.points)


def record_of(workdir):
    files = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep that tests copy."""
    workdir = tmp_path_factory.mktemp("finished")
    sweep.run(small_plan(train__epochs=4), workdir)
    return workdir


def test_rho_is_not_swept_where_the_optimiser_has_none():
    points = sweep.expand(point(), AXES)
    base = [p for p in points if p["optimizer"]["name"] == "base"]
    sam = [p for p in points if p["optimizer"]["name"] == "sam"]
    assert len(base) == 2 * 2
    assert len(sam) == 2 * 2 * 2
    assert {p["optimizer"]["rho"] for p in base} == {0.0}


def test_runs_have_different_names_and_equal_ones_the_same():
    points = sweep.expand(point(), AXES)
    assert len({configs.point_name(p) for p in points}) == len(points)
    a, b = point(), point()
    b["run"]["checkpoint_seconds"] = 5.0
    b["experiment"] = "another"
    assert configs.point_name(a) == configs.point_name(b)
    b["train"]["epochs"] += 1
    assert configs.point_name(a) != configs.point_name(b)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"optimizer.roh": (0.1,)}, r"'optimizer.roh' is no field \(did you mean 'optimizer.rho'"),
        ({"optimizer.rho": ()}, "has no values"),
        ({"optimizer.rho": (-0.1,)}, r"optimizer.rho=-0.1 is not allowed.*≥ 0"),
        ({"optimizer.rho": (float("nan"),)}, "optimizer.rho=nan is not allowed"),
        ({"model.hidden": ((0, 4),)}, r"model.hidden=\(0, 4\) should hold whole numbers ≥ 1"),
    ],
)
def test_bad_axes(axes, words):
    with pytest.raises(UserError, match=words):
        sweep.expand(point(), axes)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("most", [1, 2, 3, 8, 1000])
def test_groups_cover_every_run_once_in_full_grids(devices, most):
    cells = [{"optimizer__rho": r} for r in (0.05, 0.1, 0.2)]
    rows = grid(point(), cells, range(5))
    points = [p for row in rows for p in row] + [point(seed=9)]
    made = groups.form(points, devices, lambda _: most)
    got = sorted(name for group in made for name in group.names)
    assert got == sorted(configs.point_name(p) for p in points)
    for group in made:
        assert len(group.names) == group.layout.seeds * group.layout.cells <= most
        for i, p in enumerate(group.points):
            assert p["seed"] == group.seeds[i // group.layout.cells]
            rho = group.cells["optimizer.rho"][i % group.layout.cells]
            assert p["optimizer"]["rho"] == rho
        assert group.layout.devices <= devices
        if most <= devices:
            assert group.layout.runs_a_device == 1


def test_points_of_different_static_fields_never_share_a_group():
    points = sweep.expand(point(), AXES)
    made = groups.form(points, 1, lambda _: 1000)
    assert len(made) == 4  # two widths, with and without SAM
    for group in made:
        assert len({configs.digest(configs.static(p)) for p in group.points}) == 1


def test_a_finished_sweep_has_records_parameters_and_nothing_to_do(finished):
    plan = small_plan(train__epochs=4)
    assert sweep.pending_groups(plan, finished) == []
    for name in names(plan):
        folder = finished / "points" / name
        rows = records.read_rows(folder / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
        assert all(row["step"] == 6 * row["epoch"] for row in rows)
        record = json.loads((folder / "config.json").read_text())
        assert record["parameters"] == 64 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10
        again = configs.from_json(record["config"])
        assert configs.point_name(again) == name
        variables = checkpoint.load(folder)
        workload = build(plan.points[name])
        split = workload.splits.test
        batch = workload.batch(split.x, split.y, None, None)
        logits, _ = workload.apply(variables["params"], {}, batch, None, False)
        accuracy = np.mean(workload.examples(logits, batch)["accuracy"])
        np.testing.assert_allclose(accuracy, rows[-1]["test_accuracy"], atol=1e-6)
    assert not list((finished / "groups").glob("*/checkpoints/*"))


def test_rerunning_trains_nothing(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = record_of(workdir)

    def prepare(*_):
        raise AssertionError("compiled something")

    monkeypatch.setattr(loop, "prepare", prepare)
    sweep.run(small_plan(train__epochs=4), workdir)
    assert record_of(workdir) == before


def test_a_changed_config_never_mixes_with_old_runs(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = record_of(workdir)
    other = small_plan(train__epochs=4, optimizer__momentum=0.5)
    assert set(other.points).isdisjoint(before)
    sweep.run(other, workdir)
    after = record_of(workdir)
    assert {name: after[name] for name in before} == before
    assert json.loads((workdir / "plan.json").read_text())["points"] == names(other)


def test_one_lost_run_trains_anew_and_the_others_are_left_alone(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = record_of(workdir)
    lost = next(name for name in before if "_sam_" in name)
    shutil.rmtree(workdir / "points" / lost)
    plan = small_plan(train__epochs=4)
    with monkeypatch.context() as patch:
        killed_at(patch, 2)
        with pytest.raises(Killed):
            sweep.run(plan, workdir)
    rest = record_of(workdir)
    assert {n: rest[n] for n in before if n != lost} == {n: before[n] for n in before if n != lost}
    sweep.run(plan, workdir)
    assert set(record_of(workdir)) == set(before)
    assert checkpoint.load(workdir / "points" / lost)["params"]


def test_finished_runs_without_their_groups_are_left_alone(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    shutil.rmtree(workdir / "groups")
    before = record_of(workdir)
    assert sweep.pending_groups(small_plan(train__epochs=4), workdir) == []
    sweep.run(small_plan(train__epochs=4), workdir)
    assert record_of(workdir) == before


def test_a_damaged_config_json_is_written_again(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    file = next((workdir / "points").glob("*/config.json"))
    good = json.loads(file.read_text())
    file.write_text("")
    sweep.run(small_plan(train__epochs=4), workdir)
    assert json.loads(file.read_text())["config"] == good["config"]


def test_the_grouping_is_frozen_before_the_first_step(tmp_path, monkeypatch):
    plan = small_plan(run__mode="loop", run__devices=2, train__epochs=4)
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            sweep.run(plan, tmp_path)
    before = {p.name for p in (tmp_path / "groups").iterdir()}
    assert len(before) == 3
    sweep.run(plan, tmp_path)
    assert {p.name for p in (tmp_path / "groups").iterdir()} == before


def test_an_integer_on_an_axis_is_the_same_run():
    one, same = (sweep.expand(point(), {"optimizer.rho": (r,)}) for r in (1, 1.0))
    assert configs.point_name(one[0]) == configs.point_name(same[0])


def test_a_cache_that_cannot_be_written_does_not_stop_training(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMOP_CACHE", str(tmp_path / "file" / "cache"))
    plan = small_plan({"seed": (0,)}, train__epochs=4)
    sweep.run(plan, tmp_path / "w")
    assert all(sweep.is_done(tmp_path / "w", name) for name in plan.points)
    assert "timings.json cannot be written" in caplog.text


def test_added_seeds_form_new_groups(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    more = small_plan({**AXES, "model.hidden": ((4, 4),), "seed": (0, 1, 2)}, train__epochs=4)
    todo = sweep.pending_groups(more, workdir)
    assert {p["seed"] for g in todo for p in g.points} == {2}


class Killed(BaseException):
    """Ends a run as an interrupt would; experiments/benchmarks/faults.py sends real SIGKILLs."""


def killed_at(monkeypatch, epoch):
    original = records.append_rows

    def append(path, rows, sync=False):
        rows = list(rows)
        original(path, rows, sync)
        if rows and rows[-1]["epoch"] >= epoch:
            raise Killed

    monkeypatch.setattr(records, "append_rows", append)


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_killed_and_resumed_is_never_killed_bit_for_bit(finished, tmp_path, monkeypatch, epoch):
    plan = small_plan(train__epochs=4, run__checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        killed_at(patch, epoch)
        with pytest.raises(Killed):
            sweep.run(plan, tmp_path)
    sweep.run(plan, tmp_path)
    assert record_of(tmp_path) == record_of(finished)
    for file in sorted((finished / "groups").glob("*/final")):
        ours = checkpoint.restore_arrays(tmp_path / "groups" / file.parent.name / "final")
        theirs = checkpoint.restore_arrays(file)
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_a_changed_network_is_resumed_with_its_masks_and_its_origin(tmp_path, monkeypatch):
    """Both live in the model state: what goes on from a checkpoint is the same network."""
    fields = {"sparsity__method": "snip", "sparsity__level": 0.5, "linearized__mode": "jvp"}
    axes = {"optimizer.rho": (0.05, 0.2), "seed": (0, 1)}
    plan = small_plan(axes, train__epochs=3, run__checkpoint_seconds=0.0, **fields)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sweep.run(plan, whole)
    with monkeypatch.context() as patch:
        killed_at(patch, 2)
        with pytest.raises(Killed):
            sweep.run(plan, parts)
    sweep.run(plan, parts)
    assert record_of(parts) == record_of(whole)
    final = checkpoint.load(parts / "points" / names(plan)[0])
    assert {"params", "masks", "origin"} <= set(final)


@pytest.mark.parametrize("damage", ["torn row", "flipped row", "damaged checkpoint", "lost DONE"])
def test_damage_is_noticed_and_mended(finished, tmp_path, monkeypatch, damage):
    plan = small_plan(train__epochs=4, run__checkpoint_seconds=0.0)
    if damage == "lost DONE":
        shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
        next((tmp_path / "points").glob("*/DONE")).unlink()
    else:
        with monkeypatch.context() as patch:
            killed_at(patch, 3)
            with pytest.raises(Killed):
                sweep.run(plan, tmp_path)
        record = next(f for f in (tmp_path / "points").glob("*/metrics.jsonl") if f.stat().st_size)
        if damage == "torn row":
            record.write_text(record.read_text()[:-20])
        elif damage == "flipped row":
            lines = record.read_text().splitlines(keepends=True)
            lines[0] = lines[0].replace('"epoch": 1', '"epoch": 7')
            record.write_text("".join(lines))
        else:
            newest = max((tmp_path / "groups").glob("*/checkpoints/*"), key=lambda p: int(p.name))
            victim = max(newest.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
            data = victim.read_bytes()
            victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    sweep.run(plan, tmp_path)
    assert record_of(tmp_path) == record_of(finished)
    assert all(sweep.is_done(tmp_path, name) for name in plan.points)


def test_a_group_goes_on_with_fewer_devices(tmp_path, monkeypatch, caplog):
    plan = small_plan({"seed": (0, 1, 2)}, run__devices=4)
    (group,) = sweep.pending_groups(plan, tmp_path)
    assert group.layout.devices == 3
    with monkeypatch.context() as patch:
        killed_at(patch, 1)
        with pytest.raises(Killed):
            sweep.run(plan, tmp_path)
    fewer = small_plan({"seed": (0, 1, 2)}, run__devices=2)
    sweep.run(fewer, tmp_path)
    assert "began on 3 devices and goes on with 1" in caplog.text
    assert all(sweep.is_done(tmp_path, name) for name in fewer.points)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        sweep.run(small_plan(), tmp_path / "file" / "runs")


def test_a_diverging_run_leaves_its_neighbours_alone(x64):
    rows = grid(point(), [{"optimizer__lr": 0.1}, {"optimizer__lr": 1e9}], [0])
    from small import first_epochs, prepared

    together, metrics = first_epochs(prepared(rows), 2)
    alone, own = first_epochs(prepared([rows[0][:1]]), 2)
    assert np.isnan(metrics["train_loss"][1])
    np.testing.assert_allclose(metrics["test_loss"][0], own["test_loss"][0], atol=1e-9)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        np.testing.assert_allclose(a[0], b[0], atol=1e-9)


def test_batch_larger_than_the_data():
    with pytest.raises(UserError, match=r"train.batch_size=500 .*200 training examples"):
        build(point(train__batch_size=500))


@pytest.mark.parametrize("name", ["points/*/config.json", "points/*/DONE", "groups/*/members.json"])
def test_a_flipped_bit_in_a_json_file_is_noticed(finished, name):
    """Also one that leaves JSON behind: another number, another name."""
    file = next(finished.glob(name))
    good = file.read_bytes()
    before = records.read_json(file)
    for place in range(0, len(good), max(1, len(good) // 60)):
        data = bytearray(good)
        data[place] ^= 1
        file.write_bytes(data)
        try:
            assert records.read_json(file) == before or b'"crc"' not in data
        except records.CorruptRecord:
            pass
        finally:
            file.write_bytes(good)


def test_a_done_file_that_lacks_a_field_is_written_again(finished, tmp_path, caplog):
    """A flipped bit in a field's name, the checksum's too, say."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = record_of(workdir)
    file = next((workdir / "points").glob("*/DONE"))
    done = records.read_json(file)
    records.write_json(file, {"rowz" if k == "rows" else k: v for k, v in done.items()})
    sweep.run(small_plan(train__epochs=4), workdir)
    assert "it lacks rows; writing it again" in caplog.text
    assert records.read_json(file) == done
    assert record_of(workdir) == before


def test_damaged_json_files_are_written_again(finished, tmp_path, caplog):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = record_of(workdir)
    for name in ("config.json", "DONE"):
        file = next((workdir / "points").glob(f"*/{name}"))
        file.write_text(file.read_text().replace("1", "2", 1))
        with pytest.raises(records.CorruptRecord):
            records.read_json(file)
    sweep.run(small_plan(train__epochs=4), workdir)
    assert "its checksum does not match; writing it again" in caplog.text
    for name in ("config.json", "DONE"):
        for file in (workdir / "points").glob(f"*/{name}"):
            records.read_json(file)
    assert record_of(workdir) == before
