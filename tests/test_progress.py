"""The bar's estimate of the time that is left."""

import pytest

from samop import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_foretold_from_a_moment_s_work(clock, capsys):
    """Compiling, before any work, and the first per cent say nothing of what the rest takes."""
    bar = progress.Progress(10, 100.0)
    for seconds, work in ((50, 1.0), (51, 1.0)):
        clock[0] = seconds
        bar.advance("SAM 8-8", work)
    clock[0] = 60
    bar.advance("SAM 8-8", 8.0, finished=1)
    bar.EVERY_SECONDS = 0
    clock[0] = 68
    bar.advance("SAM 8-8", 9.0)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "0/10 runs  SAM 8-8  1 %  "
    assert last == "1/10 runs  SAM 8-8  19 %  1 min 21 s left"  # 18 took 18 s, 81 are left


def test_durations():
    assert [progress.duration(x) for x in (45, 200, 7500)] == ["45 s", "3 min 20 s", "2 h 5 min"]
