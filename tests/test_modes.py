"""How runs train together: asked for, by rule, or timed once and then frozen."""

import json

import jax
import pytest
from small import first_epochs, point

from samop import groups, loop, memory, modes, remembered, sweep

AXES = {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.05, 0.2), "seed": (0, 1, 2)}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMOP_CACHE", str(tmp_path / "cache"))


def plan_of(**fields):
    fields = {"run__devices": 2, **fields}
    return sweep.plan(point(**fields), AXES, "command")


def settle(plan):
    return modes.settle(plan.points.values(), plan.run, sweep.devices(plan.run))


def choice_of(plan):
    (choice,) = {
        str(modes.choose(p, plan.run, sweep.devices(plan.run))) for p in plan.points.values()
    }
    return choice


def pretend(monkeypatch, seconds):
    """Times that depend on how many runs a device has; returns the groups that were timed."""
    timed = []

    def seconds_a_step(group, used):
        timed.append(group)
        return seconds["vmap" if group.layout.runs_a_device > 1 else "loop"]

    monkeypatch.setattr(modes, "seconds_a_step", seconds_a_step)
    monkeypatch.setattr(modes, "WORTH_TIMING", 0)
    return timed


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_what_is_asked_for_is_not_timed(monkeypatch, mode):
    timed = pretend(monkeypatch, {"vmap": 1.0, "loop": 1.0})
    plan = plan_of(run__mode=mode)
    assert settle(plan) == {}
    assert timed == []
    assert f"mode='{mode}', why='asked'" in choice_of(plan)


def test_a_short_sweep_takes_the_rule(monkeypatch):
    monkeypatch.setattr(modes, "seconds_a_step", lambda *_: pytest.fail("timed"))
    plan = plan_of()
    assert settle(plan) == {}
    assert "mode='vmap', why='rule'" in choice_of(plan)
    wide = plan_of(model__hidden=(400, 100))
    assert "mode='loop', why='rule'" in choice_of(wide)


@pytest.mark.parametrize(("vmap", "faster"), [(1.0, "vmap"), (3.0, "loop")])
def test_the_faster_one_is_taken_remembered_and_frozen(monkeypatch, tmp_path, vmap, faster):
    seconds = {"vmap": vmap, "loop": 2.0}
    timed = pretend(monkeypatch, seconds)
    plan = plan_of()
    sweep.run(plan, tmp_path / "w")
    # Once for both optimisers, with the dearer one.
    assert [group.points[0]["optimizer"]["name"] for group in timed] == ["sam", "sam"]
    how = {
        len(members["points"]): members["how"]
        for file in (tmp_path / "w" / "groups").glob("*/members.json")
        for members in [json.loads(file.read_text())]
    }
    assert set(how) == ({3, 6} if faster == "vmap" else {1, 2})
    for value in how.values():
        assert value == {"mode": faster, "why": "timed", "seconds": seconds}
    remembered._known.clear()  # as another process, which reads the file
    assert settle(plan) == {}
    assert len(timed) == 2
    other = plan_of(train__batch_size=16)
    assert set(settle(other)) == {"digits 8-8"}


def test_a_group_that_was_begun_stays_as_it_is_whatever_is_timed_later(monkeypatch, tmp_path):
    plan = plan_of()
    monkeypatch.setattr(sweep, "_train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sweep.run(plan, tmp_path)
    before = {group.name for group in sweep.pending_groups(plan, tmp_path)}
    pretend(monkeypatch, {"vmap": 2.0, "loop": 1.0})
    settle(plan)
    assert "'loop'" in choice_of(plan)
    assert {group.name for group in sweep.pending_groups(plan, tmp_path)} == before


def test_real_steps_are_timed(monkeypatch):
    monkeypatch.setattr(modes, "WORTH_TIMING", 0)
    monkeypatch.setattr(modes, "SECONDS", 0.01)
    (choice,) = settle(plan_of()).values()
    assert set(choice.seconds) == {"vmap", "loop"}
    assert all(0 < seconds < 1 for seconds in choice.seconds.values())
    assert choice.seconds[choice.mode] == min(choice.seconds.values())


def test_without_a_choice_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(modes, "WORTH_TIMING", 0)
    # One program holds one run; as many runs as devices; nothing fits.
    assert settle(plan_of(run__replicates=1)) == {}
    few = sweep.plan(point(run__devices=2), {"seed": (0, 1)}, "")
    assert settle(few) == {}
    monkeypatch.setattr(modes.environment, "free_bytes", lambda used: memory.GIB / 1e6)
    assert settle(plan_of()) == {}


def test_a_cache_that_is_damaged_or_cannot_be_written(monkeypatch, tmp_path, caplog):
    pretend(monkeypatch, {"vmap": 2.0, "loop": 1.0})
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / modes.FILE).write_text("[1]")
    plan = plan_of()
    assert "why='rule'" in choice_of(plan)
    assert "modes.json cannot be read (no JSON object)" in caplog.text
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMOP_CACHE", str(tmp_path / "file" / "cache"))
    settle(plan)
    assert "modes.json cannot be written" in caplog.text
    # This process goes by what it found all the same.
    assert "mode='loop', why='timed'" in choice_of(plan)


def test_the_key_is_of_shapes_and_machine():
    run, used = point()["run"], jax.devices()[:2]
    key = lambda run=run, used=used, **fields: modes._key(point(**fields), run, used)  # noqa: E731
    same = ({"optimizer__rho": 0.3, "seed": 4}, {"optimizer__name": "base"})
    assert {key(**fields) for fields in (*same, {"data__label_noise": 0.2})} == {key()}
    for other in ({"model__hidden": (8, 9)}, {"data__order_seed": 0}):
        assert key(**other) != key()
    assert key(used=jax.devices()[:1]) != key()
    assert key(run={**run, "replicates": 4}) != key()


@pytest.mark.parametrize(
    "value",
    [5, {"vmap": 1.0, "loop": 2.0}, {"runs": 64, "seconds": {"vmap": 1.0, "loop": None}}]
    + [{"runs": 64, "seconds": {"bogus": 1.0}}, {"runs": 64, "seconds": {"vmap": 0, "loop": 1}}],
    ids=str,
)
def test_a_value_that_is_no_timing_is_timed_again(monkeypatch, caplog, value):
    timed, plan = pretend(monkeypatch, {"vmap": 2.0, "loop": 1.0}), plan_of()
    key = modes._key(next(iter(plan.points.values())), plan.run, sweep.devices(plan.run))
    remembered.add(modes.FILE, key, value)
    assert "why='rule'" in choice_of(plan)
    assert "is no timing" in caplog.text
    settle(plan)
    assert len(timed) == 2
    assert "mode='loop', why='timed'" in choice_of(plan)


def test_few_runs_say_little_of_many(monkeypatch):
    timed = pretend(monkeypatch, {"vmap": 2.0, "loop": 1.0})
    for seeds, again in ((3, True), (6, False), (13, True), (64, True), (200, False)):
        plan = sweep.plan(point(run__devices=2), {"seed": tuple(range(seeds))}, "")
        assert bool(settle(plan)) == again, seeds
    assert max(len(group.names) for group in timed) <= 2 * modes.SAMPLE


def test_no_choice_is_remembered(monkeypatch):
    plan = plan_of(run__replicates=1)
    timed = pretend(monkeypatch, {"vmap": 2.0, "loop": 1.0})
    assert settle(plan) == {}
    assert modes.untimed(plan.points.values(), plan.run, sweep.devices(plan.run)) == {}
    assert timed == []


def test_every_mode_makes_the_same_runs(x64):
    fields = {"data__train_size": 24, "train__batch_size": 8, "train__diagnostics_every": 0}
    axes = {"seed": (0, 1), "optimizer.rho": (0.05, 0.2)}
    points = list(sweep.plan(point(**fields), axes).points.values())
    runs: dict[str, dict[str, dict]] = {}
    for way, devices, most in (("vmap", 1, 99), ("loop", 2, 2), ("one by one", 1, 1)):
        runs[way] = {}
        for group in groups.form(points, devices, lambda _, most=most: most):
            assert (group.layout.runs_a_device > 1) == (way == "vmap")
            _, metrics = first_epochs(loop.prepare(group, jax.devices()))
            for i, name in enumerate(group.names):
                runs[way][name] = {key: value[i] for key, value in metrics.items()}
    assert len(runs["one by one"]) == len(points)
    for way in ("vmap", "loop"):
        assert runs[way].keys() == runs["one by one"].keys()
        for name, row in runs["one by one"].items():
            assert row == pytest.approx(runs[way][name], rel=1e-9, abs=1e-9), (way, name)
