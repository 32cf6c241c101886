"""How far a sweep is, by its files alone."""

import math

import planted
import pytest
from planted_pages import Parsed, page_of, sweep, unfinish, value

from samop import config, report, results
from samop.pages import standing


def test_standing_agrees_with_what_is_verified(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[1]["losses"] = [0.5, math.nan]
    sweep_ = planted.sweep(tmp_path, runs)
    unfinish(sweep_, [runs[2]["name"], runs[3]["name"]])
    unfinish(sweep_, [runs[4]["name"]], begun=False)
    state = standing.read(sweep_)
    table = results.load(sweep_, allow_incomplete=True)
    assert {r.name: r.status for r in state.runs} == dict(zip(table["point"], table["status"]))
    assert not state.whole
    assert state.finished == 5
    cost = {r["name"]: r["config"]["optimizer"]["name"] for r in runs}
    weight = {
        r["name"]: (64 * r["hidden"] + r["hidden"] ** 2 + 3000)
        * (2 if cost[r["name"]] == "sam" else 1)
        for r in runs
    }
    part = {runs[2]["name"]: 0.5, runs[3]["name"]: 0.5, runs[4]["name"]: 0.0}
    done = sum(w * part.get(name, 1.0) for name, w in weight.items())
    assert state.share == pytest.approx(done / sum(weight.values()))
    assert state.percent == math.floor(100 * state.share)


def test_only_a_whole_sweep_is_done_to_100_percent(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    for run in runs:
        run["config"]["run"]["claim_seconds"] = 7.5
    runs[0]["done"] = False  # all its epochs are trained, but nobody has said that it is done
    planted.sweep(tmp_path, runs)
    known = {}
    state = standing.read(tmp_path, known)
    assert (state.share, state.percent) == (1.0, 99)
    report.page(tmp_path)
    assert "99 % of the work is done" in Parsed(page_of(tmp_path)).text
    planted.finish(tmp_path / "points" / runs[0]["name"])
    for _ in range(2):  # at the second look none is read again
        state = standing.read(tmp_path, known)
        assert (state.percent, state.claim_seconds) == (100, 7.5)


def test_a_claim_waits_as_long_as_the_config_has_it_where_no_record_says(tmp_path):
    planted.sweep(tmp_path, planted.grid(value, widths=(4,), seeds=1, rhos=(0.1,)))
    default = config.defaults().run.claim_seconds
    assert standing.read(tmp_path).claim_seconds == default > 0


def test_finished_runs_are_not_read_again(tmp_path, monkeypatch):
    sweep(tmp_path, widths=(4, 8), seeds=2, rhos=(0.1,), noises=(0.0,))
    unfinish(tmp_path, [sorted(p.name for p in (tmp_path / "points").iterdir())[0]])
    known = {}
    first = standing.read(tmp_path, known)
    read = []
    real = standing._last_row
    monkeypatch.setattr(standing, "_last_row", lambda path: read.append(path) or real(path))
    assert standing.read(tmp_path, known) == first
    assert len(read) == 1
    assert standing.read(tmp_path / "nowhere") is None
