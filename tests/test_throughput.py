"""How fast runs were, from the training loop to the report."""

import json

import numpy as np
import pandas as pd
import planted
import pytest
from small import grid, point, prepared

from samop import loop, report, results, speed, throughput

FORWARD = 2 * (64 * 8 + 8 * 8 + 8 * 10)  # of the small digits network, an example


def timing(workdir):
    """The lines of timing.jsonl of every run."""
    files = sorted((workdir / "points").glob("*/timing.jsonl"))
    return {f.parent.name: [json.loads(line) for line in f.read_text().splitlines()] for f in files}


def folders(ready, workdir):
    for name in ready.group.names:
        (workdir / "points" / name).mkdir(parents=True)


@pytest.fixture(scope="module")
def ready():
    """A group of SAM at two radii and two seeds, five epochs of six steps."""
    cells = [{"optimizer__rho": rho} for rho in (0.05, 0.2)]
    return prepared(grid(point(train__epochs=5), cells, [0, 1]))


def test_what_a_call_records(ready, tmp_path):
    folders(ready, tmp_path)
    assert loop.train(ready, tmp_path) == 5
    found = timing(tmp_path)
    assert len(found) == 4
    for (line,) in found.values():
        assert (line["runs"], line["epochs"], line["steps"]) == (4, 5, 5 * 6)
        second = pytest.approx(line["seconds"], abs=6e-4)
        assert 4 * 30 / line["steps_per_second"] == second
        assert line["examples_per_second"] == pytest.approx(32 * line["steps_per_second"], rel=1e-5)
        # Three forward passes an example and gradient; SAM takes two gradients a step.
        each = 2 * 3 * FORWARD
        expected = each * line["examples_per_second"]
        assert line["model_flops_per_second"] == pytest.approx(expected, rel=1e-5)
    # What is trained already leaves no line.
    assert loop.train(ready, tmp_path) == 0
    assert timing(tmp_path) == found


class Killed(BaseException):
    """Ends a run as an interrupt would."""


def test_a_resumed_call_records_its_own_work(ready, tmp_path, monkeypatch):
    folders(ready, tmp_path)

    def kill(epochs):
        seen.append(epochs)
        if sum(seen) == 3:
            raise Killed

    seen: list[int] = []
    with pytest.raises(Killed):
        loop.train(ready, tmp_path, checkpoint_seconds=0.0, report=kill)
    assert timing(tmp_path) == {}
    done = []
    monkeypatch.setattr(speed, "figures", lambda ready, *args: done.append(args) or {})
    trained = loop.train(ready, tmp_path)
    assert 0 < trained < 5
    ((epochs, evaluations, seconds),) = done
    assert epochs == trained
    assert evaluations == trained * 6 * 2
    assert seconds > 0


def test_flops_that_cannot_be_counted_are_left_out_and_said(ready, monkeypatch, caplog):
    def refuse(workload):
        raise ValueError("the flops of a while_loop cannot be counted")

    monkeypatch.setattr(speed, "flops_of_example", refuse)
    assert set(speed.figures(ready, 1, 12, 2.0)) == {
        "steps", "steps_per_second", "examples_per_second",
    }  # fmt: skip
    assert "no model flops in its record: the flops of a while_loop" in caplog.text


def line(group, seconds, steps=10.0, runs=2):
    return {
        "group": group,
        "runs": runs,
        "seconds": seconds,
        "steps": 1,
        "steps_per_second": steps,
        "examples_per_second": 64 * steps,
        "model_flops_per_second": 1e9 * steps,
    }


def planted_sweep(root, lines, **kwargs):
    """Base and SAM at two widths and two seeds; `lines`: width → a group's timing lines, as text.

    A group is the runs of one width and optimiser.
    """
    items = planted.grid(lambda w, n, s, r: [(0.9, 0.9), (0.9, 0.9)], (4, 8), (0.1,), 2, **kwargs)
    planted.sweep(root, items)
    for item in items:
        kind = item["config"]["optimizer"]["name"]
        if own := lines.get((item["hidden"], kind)):
            text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in own)
            (root / "points" / item["name"] / "timing.jsonl").write_text(text)
    return results.load(root)


def test_calls_of_a_group_join_by_their_seconds(tmp_path):
    lines = {(4, "base"): [line("a", 1.0, 10.0), line("a", 3.0, 30.0)]}
    runs = planted_sweep(tmp_path, lines)
    table = throughput.joined(runs, throughput.read(tmp_path, runs))
    assert list(table.columns) == [*runs.columns, *throughput.RATES]
    mine = (table["width"] == "4-4") & (table["transform"] == "base")
    np.testing.assert_allclose(table.loc[mine, "steps_per_second"], (10 + 3 * 30) / 4)
    np.testing.assert_allclose(table.loc[mine, "model_flops_per_second"], 25e9)
    assert table.loc[~mine, list(throughput.RATES)].isna().all(axis=None)


def test_the_speed_block(tmp_path):
    lines = {
        (4, "base"): [line("a", 1.0, 10.0), line("a", 3.0, 30.0)],
        (4, "sam"): [line("b", 2.0, 1234.5)],
        (8, "sam"): [{"runs": 2, "seconds": 7.0, "group": "c"}],  # of an earlier version
    }
    runs = planted_sweep(tmp_path, lines)
    text = throughput.section(runs, throughput.read(tmp_path, runs))
    assert text.startswith("Speed")
    assert max(map(len, text.splitlines())) <= 100
    rows = [row.split() for row in text.splitlines() if row.startswith("  ")]
    assert ["4-4", "SGD", "2", "4.0", "25", "1,600", "25"] in rows
    assert ["4-4", "SAM", "2", "2.0", "1,234", "79,008", "1,234"] in rows
    assert ["8-8", "SAM", "2", "7.0", "–", "–", "–"] in rows
    assert not any(row[:2] == ["8-8", "SGD"] for row in rows)


def test_a_report_has_both(tmp_path):
    planted_sweep(tmp_path, {(8, "sam"): [line("c", 2.0)]})
    text = report.write(tmp_path)
    assert "\nSpeed" in text
    assert "compute: " in text
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table["examples_per_second"].notna().sum() == 2


def test_folders_of_earlier_versions_are_reported(tmp_path):
    planted_sweep(tmp_path, {(8, "sam"): [{"runs": 2, "seconds": 2.0}]})
    text = report.write(tmp_path)
    assert "Speed" not in text
    assert "2 s of training recorded by 2 runs" in text
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table[list(throughput.RATES)].isna().all(axis=None)


@pytest.mark.parametrize(
    "bad",
    [
        '{"sec',
        "[1]\n",
        "{}\n",
        '{"seconds": "2"}\n',
        '{"seconds": NaN}\n',
        '{"seconds": -1}\n',
        '{"seconds": 2, "runs": 0}\n',
        '{"seconds": 2, "steps_per_second": true}\n',
        '{"seconds": 2, "group": 3}\n',
    ],
)
def test_a_line_that_is_no_record_is_said_and_skipped(tmp_path, bad, caplog):
    runs = planted_sweep(tmp_path, {(4, "base"): [line("a", 4.0), bad]})
    found = throughput.read(tmp_path, runs)
    assert "timing.jsonl, line 2 is unreadable" in caplog.text
    assert found["seconds"].tolist() == [4.0, 4.0]
    assert "4 s of training recorded by 2 runs" in throughput.compute(runs, found)
