"""How groups compile: once a shape, divided where they do not fit, not after a failure."""

import json
import threading
import time

import pytest
from small import small_plan

from samop import groups, loop, sweep


def test_a_group_that_does_not_fit_is_halved_before_it_is_frozen(tmp_path):
    plan = small_plan(run__devices=1)
    used = sweep.devices(plan.run)
    (group,) = (g for g in sweep.pending_groups(plan, tmp_path) if len(g.names) == 4)
    ready = loop.prepare(group, used)
    halves = sweep.smaller(ready, tmp_path, used, 1.0)
    assert sorted(n for g in halves for n in g.names) == sorted(group.names)
    assert max(len(g.names) for g in halves) == 2
    begun = tmp_path / "points" / group.names[0]
    begun.mkdir(parents=True)
    (begun / "metrics.jsonl").write_text("")
    assert sweep.smaller(ready, tmp_path, used, 1.0) == []


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_step_is_traced_once_per_shape(tmp_path, monkeypatch, mode):
    traces = []
    original = loop.make_run

    def counted(*given):
        run = original(*given)

        def epoch(*args):
            traces.append(args[0].params)
            return run.epoch(*args)

        return run._replace(epoch=epoch)

    monkeypatch.setattr(loop, "make_run", counted)
    fields = {"run__mode": mode, "run__devices": 1, "train__epochs": 2}
    sweep.run(small_plan({"seed": (0, 1, 2)}, **fields), tmp_path)
    assert len(list((tmp_path / "groups").iterdir())) == (3 if mode == "loop" else 1)
    assert len(traces) == 1


def test_a_group_being_divided_when_killed_is_divided_afterwards(tmp_path, monkeypatch):
    plan = small_plan({"seed": (0, 1)}, run__devices=1, train__epochs=1)
    free = iter([1e-9, 1e-9, *[1e12] * 9])
    ready = loop.prepare(sweep.pending_groups(plan, tmp_path)[0], sweep.devices(plan.run))
    del ready
    monkeypatch.setattr(sweep.environment, "free_bytes", lambda used: next(free))
    with monkeypatch.context() as patch:
        patch.setattr(groups, "thaw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep.run(plan, tmp_path)
    assert len(list((tmp_path / "groups").iterdir())) == 3
    assert sorted(len(g.names) for g in sweep.pending_groups(plan, tmp_path)) == [1, 1]
    monkeypatch.setattr(sweep.environment, "free_bytes", lambda used: 1e12)
    sweep.run(plan, tmp_path)
    for name in plan.points:
        assert len((tmp_path / "points" / name / "timing.jsonl").read_text().splitlines()) == 1


def test_nothing_compiles_after_a_failure(tmp_path, monkeypatch):
    plan = small_plan({"model.hidden": ((4, 4), (5, 5), (6, 6), (7, 7), (8, 8))})
    compiled = []

    def prepare(group, used):
        compiled.append(group)
        time.sleep(0.2)
        raise RuntimeError("the first")

    monkeypatch.setattr(loop, "prepare", prepare)
    with pytest.raises(RuntimeError, match="the first"):
        sweep.run(plan, tmp_path)
    for thread in threading.enumerate():
        if thread.name.startswith("compile"):
            thread.join(timeout=10)
    assert len(compiled) <= sweep.COMPILERS


def test_members_of_an_earlier_version_are_read(tmp_path):
    plan = small_plan({"seed": (0, 1)})
    (group,) = sweep.pending_groups(plan, tmp_path)
    folder = tmp_path / "groups" / group.name
    groups.freeze(group, folder, {})
    old = json.loads((folder / groups.MEMBERS).read_text())
    del old["how"], old["crc"]
    (folder / groups.MEMBERS).write_text(json.dumps(old))
    assert sweep.pending_groups(plan, tmp_path) == [group]
