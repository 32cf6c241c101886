"""What `--dry_run` says of memory: from shapes alone, and compiled only where it is worth it."""

import pytest
import small

from samop import environment, loop, memory, needs, plans, sweep
from samop.models import MODELS

GIB = memory.GIB


def refuse(*_, **__):
    raise AssertionError


def described(plan, workdir):
    return plans.describe(plan, workdir, foretell=True)


def test_small_networks_are_not_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "compiled", refuse)
    text = described(small.small_plan(), tmp_path)
    assert "  memory a device: 4-4: small (up to 1 M parameters a run)\n" in text
    assert "memory" not in plans.describe(small.small_plan(), tmp_path)


def test_the_footprint_is_that_of_the_run_and_needs_no_data_on_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "LARGE", 500)
    monkeypatch.setattr(memory, "GIB", 2**10)
    plan = small.small_plan({"model.hidden": ((4, 4), (16, 16)), "seed": (0,)}, run__devices=1)
    wanted = {}
    for group in sweep.pending_groups(plan, tmp_path):
        ready = loop.prepare(group, sweep.devices(plan.run))
        wanted[ready.group.points[0]["model"]["hidden"]] = ready.footprint
    monkeypatch.setattr(loop, "_place_data", refuse)
    text = described(plan, tmp_path)
    found = wanted[16, 16]
    line = (
        f"16-16: {found.more / 2**10:.2f} GiB (state {found.state / 2**10:.2f}, "
        f"workspace {found.workspace / 2**10:.2f})"
    )
    assert line in text
    assert "as XLA plans it for a cpu: 4-4: small (up to" in text
    assert f"data {found.data / 2**10:.2f}; free " in text


def test_what_does_not_fit_says_what_would(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "LARGE", 100)
    monkeypatch.setattr(environment, "free_bytes", lambda used: 2**14)
    text = described(small.small_plan({"seed": (0, 1)}, run__devices=1), tmp_path)
    assert "  would not fit: digits_mlp_" in text
    assert "--config.optimizer.m=16" in text or "none fits" in text


def test_what_else_takes_less():
    point = small.point()
    flags = lambda *args: [o.flags for o in memory.others(point, *args)]  # noqa: E731
    assert flags(1, False, "cpu") == ["--config.optimizer.m=16"]
    many = ["--config.precision.compute=bfloat16", "--config.run.shard_parameters=True"]
    assert flags(8, False, "gpu") == ["--config.optimizer.m=16", *many]
    assert flags(8, True, "gpu") == ["--config.optimizer.m=16", many[0]]
    point = {**point, "model": {"name": "resnet18", **MODELS["resnet18"].fields}}
    assert flags(1, False, "cpu")[0] == "--config.train.remat=True"
    large, half = memory.Footprint(100, 50, 800), memory.Footprint(100, 50, 500)
    sizes = {"batch_size": 64, "eval_batch_size": 1000}
    others = memory.others(point, 8, False, "gpu")
    assert "remat" in memory.what_would_fit(large, half, 600, sizes, others)
    hopeless = memory.what_would_fit(large, half, 120, sizes, others)
    assert "none fits" in hopeless
    assert "remat" not in hopeless
    assert hopeless.endswith("less is taken with --config.run.shard_parameters=True")


@pytest.mark.parametrize(("share", "effect"), [("never", False), ("always", True)])
def test_dividing_is_said_to_have_no_effect_where_it_has_none(share, effect, tmp_path):
    fields = {"run__share_batches": share, "run__shard_parameters": True}
    plan = small.small_plan({"seed": (0,)}, **fields)
    assert ("has no effect" in described(plan, tmp_path)) is not effect
