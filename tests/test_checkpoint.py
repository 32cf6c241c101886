"""Checkpoints: exact, whole or absent, and never believed when a bit has flipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import checkpoint
from samop.errors import UserError


def tree():
    rng = np.random.default_rng(0)
    return {
        "step": jnp.int32(7),
        "params": {"w": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), "b": jnp.ones(3)},
        "momentum": (jnp.zeros((0, 4)), [jnp.arange(5.0)], ()),
        "half": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trip_bit_for_bit_including_empty_leaves(tmp_path):
    checkpoint.save(tmp_path / "3", tree())
    assert_same(checkpoint.restore(tmp_path / "3", tree()), tree())


def test_restores_onto_the_templates_sharding(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("runs",))
    sharding = NamedSharding(mesh, PartitionSpec("runs"))
    value = {"w": jax.device_put(jnp.arange(16.0), sharding)}
    checkpoint.save(tmp_path / "1", value)
    template = {"w": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding)}
    back = checkpoint.restore(tmp_path / "1", template)["w"]
    assert back.sharding == sharding
    np.testing.assert_array_equal(back, value["w"])


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_any_flipped_bit_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "1", tree())
    for file in files(tmp_path / "1"):
        data = bytearray(file.read_bytes())
        if not data:
            continue
        data[len(data) // 2] ^= 1
        original = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            checkpoint.restore(tmp_path / "1", tree())
        file.write_bytes(original)
    assert_same(checkpoint.restore(tmp_path / "1", tree()), tree())


@pytest.mark.parametrize("how", ["missing", "truncated", "added"])
def test_missing_truncated_or_added_files_are_noticed(tmp_path, how):
    checkpoint.save(tmp_path / "1", tree())
    victim = max(files(tmp_path / "1" / "state"), key=lambda p: p.stat().st_size)
    if how == "missing":
        victim.unlink()
    elif how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        (victim.parent / "stranger").write_text("x")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.verify(tmp_path / "1")


def test_newest_good_falls_back_past_a_damaged_one(tmp_path, caplog):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path / str(step), tree())
    assert checkpoint.newest_good(tmp_path, most=25) == 20
    (tmp_path / "30" / "sha256.json").write_text("{")
    assert checkpoint.newest_good(tmp_path, most=99) == 20
    assert checkpoint.newest_good(tmp_path / "none", most=99) == 0


def test_a_save_that_was_killed_leaves_no_checkpoint(tmp_path):
    (tmp_path / ".5.tmp" / "state").mkdir(parents=True)
    (tmp_path / ".5.tmp" / "state" / "half").write_text("x")
    assert checkpoint.steps(tmp_path) == []
    checkpoint.save(tmp_path / "5", tree())
    assert checkpoint.steps(tmp_path) == [5]


def test_the_writer_keeps_the_newest_and_raises_what_went_wrong(tmp_path, monkeypatch):
    writer = checkpoint.Writer(tmp_path, keep=2)
    for step in (1, 2, 10):
        writer.save(step, tree())
    writer.wait()
    assert checkpoint.steps(tmp_path) == [2, 10]

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save", full)
    writer.save(11, tree())
    with pytest.raises(OSError, match="disk full"):
        writer.close()
