"""Traces of an epoch: of which one, where they go, and that they change no number."""

import jax
import pytest
from small import point

from samop import cli, main, profiling, sweep, validation
from samop import config as configs
from samop.errors import UserError


def metrics(workdir):
    files = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_trace_is_of_one_warm_epoch_and_changes_no_number(tmp_path, monkeypatch, epochs):
    plan = sweep.plan(point(train__epochs=epochs), {"seed": (0,)})
    sweep.run(plan, tmp_path / "plain")
    calls, traced = [], profiling.traced

    def counted(fn, folder):
        calls.append(folder)
        return lambda *args: (calls.append(int(args[-1])), traced(fn, folder)(*args))[1]

    monkeypatch.setattr(profiling, "traced", counted)
    traces = tmp_path / "new" / "traces"
    again = sweep.plan(point(train__epochs=epochs, profile=str(traces)), {"seed": (0,)})
    assert list(again.points) == list(plan.points)
    sweep.run(again, tmp_path / "profiled")
    assert metrics(tmp_path / "profiled") == metrics(tmp_path / "plain")
    (group,) = (path.name for path in (tmp_path / "profiled" / "groups").iterdir())
    assert calls == [traces / f"sam_8-8_{group}", min(1, epochs - 1)]
    (file,) = traces.rglob("*.xplane.pb")
    assert file.is_relative_to(calls[0])
    assert file.stat().st_size > 1000
    # Nothing is left to train, so there is nothing to trace.
    sweep.run(again, tmp_path / "profiled")
    assert list(traces.rglob("*.xplane.pb")) == [file]


def test_a_trace_waits_for_the_devices(tmp_path, monkeypatch):
    events = []
    original = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: (events.append("wait"), original(x))[1])

    class Trace:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            events.append("begin")

        def __exit__(self, *_):
            events.append("end")

    monkeypatch.setattr(jax.profiler, "trace", Trace)
    assert profiling.traced(lambda x: (events.append("call"), x + 1)[1], tmp_path)(1) == 2
    assert events == ["wait", "begin", "call", "wait", "end"]


def test_where_traces_go_is_no_part_of_a_run():
    plain, profiled = point(), point(profile="somewhere")
    assert configs.point_name(plain) == configs.point_name(profiled)
    assert configs.static(plain) == configs.static(profiled)
    # Nor of its record: who repeats the run asks for a trace himself.
    assert configs.to_json(plain) == configs.to_json(profiled)
    assert configs.from_json(configs.to_json(profiled)).profile == ""


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    bad = tmp_path / "file" / "traces"
    plan = sweep.plan(point(profile=str(bad)), {"seed": (0,)})
    with pytest.raises(UserError, match=r"profile='.*traces' cannot be written: .*choose a folder"):
        sweep.run(plan, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    work = [f"--workdir={tmp_path / 'w'}", "--config=configs/digits_width.py:smoke"]
    request = cli.parse([*work, f"--config.profile={tmp_path / 'traces'}", "--dry_run"])
    assert main.execute(request) == 0
    assert not (tmp_path / "traces").exists()
    assert "--config.profile=DIR" in cli.HELP


def test_a_folder_that_is_no_text():
    config = point()
    config["profile"] = 5
    with pytest.raises(UserError, match="profile=5 should be of type str"):
        validation.validate(config)
