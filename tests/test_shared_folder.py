"""Several workers in one work folder: every run once, and the records of one worker."""

import json
import os
import subprocess
import sys

import pytest
from claiming import LONG, OWNER, ROOT, asked, files, process
from small import small_plan

from samop import claims, groups, loop, plans, records, sweep


def record_of(workdir):
    found = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in found}


def times_trained(workdir):
    return {p.parent.name: p.read_text().count("\n") for p in workdir.glob("points/*/timing.jsonl")}


AXES = {"model.hidden": ((4, 4), (5, 5)), "optimizer.name": ("base", "sam"), "seed": (0, 1)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep as one worker trains it."""
    workdir = tmp_path_factory.mktemp("alone")
    assert sweep.run(small_plan(AXES, run__devices=1), workdir) == []
    return workdir


def test_nothing_of_the_claims_is_left_and_an_old_lock_does_no_harm(alone, tmp_path):
    assert files(alone) == []
    (tmp_path / ".lock").write_text("12345")
    plan = small_plan({"seed": (0,)})
    assert sweep.run(plan, tmp_path) == []
    assert all(sweep.is_done(tmp_path, name) for name in plan.points)


def test_a_group_that_another_worker_trains_is_left_to_it(alone, tmp_path):
    plan = small_plan(AXES, run__devices=1)
    group = sweep.pending_groups(plan, tmp_path)[2]
    with process(OWNER.replace('"it"', repr(group.name)), tmp_path, LONG, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
        others = sweep.run(plan, tmp_path)
        (other,) = others
        assert f"process {owner.pid} on " in other
        assert not any(sweep.is_done(tmp_path, name) for name in group.names)
        assert set(record_of(tmp_path)) == set(plan.points) - set(group.names)
        said = plans.unfinished(plan, tmp_path, others)
        assert said.startswith(f"6 of 8 runs are done; still training: {other}: 1 group")
        assert "\n" not in said
        # It stopped renewing: the same command takes over.
        file = tmp_path / claims.FOLDER / f"{group.name}.claim.0"
        os.utime(file, (file.stat().st_mtime - LONG - 1,) * 2)
        assert sweep.run(plan, tmp_path) == []
        assert asked(owner).startswith("lost: ")
    assert plans.unfinished(plan, tmp_path, []) == ""
    assert record_of(tmp_path) == record_of(alone)
    assert set(times_trained(tmp_path).values()) == {1}


def test_what_a_worker_left_is_looked_at_again_at_the_end(alone, tmp_path, monkeypatch):
    """Another worker fails while this one trains: its group is trained in the same call."""
    plan = small_plan(AXES, run__devices=1)
    group = sweep.pending_groups(plan, tmp_path)[0]
    other = claims.take(tmp_path, group.name, LONG)
    original, seen = loop.train, []

    def train(ready, *args, **kwargs):
        seen.append(ready.group.name)
        if len(seen) == 3:
            other.release()
        return original(ready, *args, **kwargs)

    monkeypatch.setattr(loop, "train", train)
    assert sweep.run(plan, tmp_path) == []
    assert seen[-1] == group.name
    assert len(seen) == len(set(seen)) == 4
    assert record_of(tmp_path) == record_of(alone)


def test_a_lost_claim_ends_the_command_before_it_writes(tmp_path, monkeypatch):
    plan = small_plan({"seed": (0, 1)}, train__epochs=4)
    (group,) = sweep.pending_groups(plan, tmp_path)
    original, others = loop.resume, []

    def resume(ready, workdir):
        found = original(ready, workdir)
        file = workdir / claims.FOLDER / f"{group.name}.claim.0"
        file.unlink()
        others.append(claims.take(workdir, group.name, LONG))
        return found

    monkeypatch.setattr(loop, "resume", resume)
    with pytest.raises(claims.LostClaim):
        sweep.run(plan, tmp_path)
    assert record_of(tmp_path) == {}
    assert not (tmp_path / "groups" / group.name / "final").exists()
    others[0].check()
    others[0].release()
    monkeypatch.undo()
    assert sweep.run(plan, tmp_path) == []


def test_what_another_worker_divided_meanwhile_is_not_trained_whole(tmp_path, monkeypatch):
    plan = small_plan({"seed": (0, 1, 2, 3)}, run__devices=1)
    original = sweep._prepared

    def prepared(todo, *args):
        monkeypatch.undo()
        for group in todo:
            halves = groups.form(group.points, 1, lambda _: 2)
            for half in halves:
                sweep.freeze(half, plan, tmp_path, replaces=group.name)
        return original(todo, *args)

    monkeypatch.setattr(sweep, "_prepared", prepared)
    assert sweep.run(plan, tmp_path) == []
    assert set(times_trained(tmp_path).values()) == {1}
    done = [json.loads(p.read_text())["group"] for p in tmp_path.glob("points/*/DONE")]
    assert len(done) == 4
    assert len(set(done)) == 2


def test_two_commands_in_one_folder_at_the_same_time(tmp_path):
    """As users on two machines start them: all runs once, the records those of one command."""
    config = [
        f"--config={ROOT / 'configs' / 'digits_width.py'}:smoke,width=4-4+5-5",
        "--config.train.epochs=12",
        "--config.sweep.seeds=2",
        "--config.run.mode=vmap",
        "--config.run.tensorboard=False",
    ]

    def start(folder):
        command = [sys.executable, "-m", "samop.main", *config, f"--workdir={tmp_path / folder}"]
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, **kwargs)

    one = start("one")
    out, err = one.communicate(timeout=300)
    assert one.returncode == 0, err
    both = [start("two"), start("two")]
    told = [worker.communicate(timeout=300) for worker in both]
    assert [worker.returncode for worker in both] == [0, 0], told
    records_alone = record_of(tmp_path / "one")
    assert record_of(tmp_path / "two") == records_alone
    assert set(times_trained(tmp_path / "two").values()) == {1}
    assert sum("results.csv" in out for out, _ in told) >= 1
    for out, _ in told:
        assert "results.csv" in out or "the last writes the report" in out or "ends last" in out
    results = [(tmp_path / w / "results.csv").read_bytes() for w in ("one", "two")]
    assert results[0] == results[1]
    assert files(tmp_path / "two") == []
    for name in records_alone:
        rows = records.read_rows(tmp_path / "two" / "points" / name / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == list(range(1, 13))
