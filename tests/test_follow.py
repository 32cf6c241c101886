"""A sweep that is watched while it runs."""

import io

import planted
import pytest
from rich.console import Console

from samop import follow, pages
from samop.errors import UserError


def value(hidden, noise, seed, rho):
    level = 0.6 + 0.01 * seed + (0.001 * hidden if rho else 0.0)
    return [(level, level)] * 2


class Training:
    """A sweep whose next moment comes when its watcher sleeps."""

    def __init__(self, folder, moments):
        self.moments = list(moments)
        self.slept = []
        self.folder = folder
        self.pages = []

    def __call__(self, seconds):
        self.slept.append(seconds)
        page = self.folder / pages.FILE
        self.pages.append(page.read_text() if page.exists() else "")
        moment = self.moments.pop(0)
        if isinstance(moment, BaseException):
            raise moment
        moment()


def watched(folder, training, *, terminal=False):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    status = follow.follow(folder, 0.01, console=console, sleep=training)
    return status, out.getvalue()


def names_of(runs):
    return [run["name"] for run in runs]


@pytest.mark.parametrize("terminal", [False, True])
def test_it_waits_for_the_sweep_shows_it_and_ends_with_it(tmp_path, terminal):
    folder = tmp_path / "sweep"
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    half = len(runs) // 2

    def begin():
        planted.sweep(folder, runs[:half], plan=names_of(runs))

    def end():
        planted.sweep(tmp_path / "rest", runs[half:])
        for point in (tmp_path / "rest" / "points").iterdir():
            point.rename(folder / "points" / point.name)

    training = Training(folder, [lambda: None, begin, end])
    status, out = watched(folder, training, terminal=terminal)
    assert status == 0
    assert not training.moments
    assert "waiting: no sweep has begun" in out
    assert f"{half} of {len(runs)} runs done, {half} to begin" in out
    assert f"wrote {folder / 'results.csv'}" in out
    # The page while it ran reads itself again, that of the whole does not.
    assert training.pages[:2] == ["", ""]
    assert 'http-equiv="refresh"' in training.pages[2]
    final = (folder / pages.FILE).read_text()
    assert "refresh" not in final
    assert "Unfinished" not in final
    assert "results.csv" in final
    assert ("gain so far" in out) == terminal


def test_it_leaves_nothing_in_a_folder_without_a_sweep(tmp_path):
    training = Training(tmp_path / "none", [lambda: None, KeyboardInterrupt()])
    status, out = watched(tmp_path / "none", training)
    assert status == 0
    assert out.count("waiting") == 1  # said once
    assert "the sweep had not begun" in out
    assert not (tmp_path / "none").exists()


def test_leaving_it_leaves_a_page_that_is_still(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    training = Training(tmp_path, [lambda: None, KeyboardInterrupt()])
    status, out = watched(tmp_path, training)
    assert status == 0
    assert "stopped watching at 7 of 8 runs" in out
    page = (tmp_path / pages.FILE).read_text()
    assert "refresh" not in page
    assert "Unfinished: 7 of 8 runs" in page
    # Of its own it wrote the page, and nothing else was touched.
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {tmp_path / pages.FILE}
    assert all(after[path] == text for path, text in before.items())


def test_the_page_is_written_only_when_something_has_changed(tmp_path, monkeypatch):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    written = []
    real = pages.write
    monkeypatch.setattr(pages, "write", lambda *a: written.append(a) or real(*a))
    watch = follow.Watch(tmp_path, 0.01)
    assert not watch.look()
    assert not watch.look()
    assert len(written) == 1
    planted.finish(tmp_path / "points" / runs[0]["name"])
    assert watch.look()
    assert len(written) == 1


def test_what_ends_while_it_is_read_is_not_overwritten(tmp_path, monkeypatch):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    real = follow.report.material

    def slow(root):
        found = real(root)
        planted.finish(tmp_path / "points" / runs[0]["name"])
        (tmp_path / pages.FILE).write_text("the page of the whole")
        return found

    monkeypatch.setattr(follow.report, "material", slow)
    follow.Watch(tmp_path, 0.01).look()
    assert (tmp_path / pages.FILE).read_text() == "the page of the whole"


def test_leaving_does_not_overwrite_the_page_of_the_whole(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    watch = follow.Watch(tmp_path, 0.01)
    assert not watch.look()
    planted.finish(tmp_path / "points" / runs[0]["name"])
    follow.report.page(tmp_path)
    whole = (tmp_path / pages.FILE).read_bytes()
    assert b"Unfinished" not in whole
    assert "the sweep is finished" in watch.left()
    assert (tmp_path / pages.FILE).read_bytes() == whole


@pytest.mark.parametrize("where", ["claims.hold", "report.write"])
def test_the_last_report_can_be_interrupted(tmp_path, monkeypatch, where):
    planted.sweep(tmp_path, planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,)))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    module, name = where.split(".")
    monkeypatch.setattr(getattr(follow, module), name, interrupted)
    status, out = watched(tmp_path, Training(tmp_path, []))
    assert status == 0
    assert "stopped watching: the sweep is finished" in out
    assert not list((tmp_path / ".claims").glob("*"))


def test_it_tries_again_after_trouble_and_says_so_once(tmp_path):
    """With counts that stay the same, the trouble and its end are news."""
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    data = tmp_path / "points" / runs[1]["name"] / "metrics.jsonl"
    whole = data.read_bytes()
    data.write_bytes(whole[:-9] + b"x" + whole[-8:])
    watch = follow.Watch(tmp_path, 0.01)
    assert not watch.look()
    assert "metrics.jsonl" in watch.news()
    assert not watch.look()
    assert watch.news() == ""
    data.write_bytes(whole)
    assert not watch.look()
    line = watch.news()
    assert "7 of 8 runs done" in line
    assert "metrics.jsonl" not in line
    assert (tmp_path / pages.FILE).exists()


def test_a_record_that_is_damaged_while_the_page_is_made_does_not_end_it(tmp_path, monkeypatch):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    real = pages.surroundings.read

    def damaged(root, names):
        raise UserError("config.json is damaged")

    monkeypatch.setattr(pages.surroundings, "read", damaged)
    watch = follow.Watch(tmp_path, 0.01)
    assert not watch.look()
    assert "config.json is damaged" in watch.news()
    monkeypatch.setattr(pages.surroundings, "read", real)
    assert not watch.look()
    assert "damaged" not in watch.news()
    assert "7 of 8 runs" in (tmp_path / pages.FILE).read_text()


def test_a_page_that_cannot_be_written_ends_it(tmp_path, monkeypatch):
    runs = planted.grid(value, widths=(4,), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pages, "write_atomic", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        follow.Watch(tmp_path, 0.01).look()


def test_trouble_is_shown_and_watching_goes_on(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    config = tmp_path / "points" / runs[1]["name"] / "config.json"
    config.write_text(config.read_text()[:50])

    status, out = watched(tmp_path, Training(tmp_path, [lambda: None, KeyboardInterrupt()]))
    assert status == 0
    assert "config.json is damaged" in out


def test_a_damaged_plan_is_an_error(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        follow.follow(tmp_path, 0.01, console=Console(file=io.StringIO()))


def test_looking_that_takes_long_is_done_less_often(tmp_path):
    runs = planted.grid(value, widths=(4,), seeds=2, rhos=(0.1,))
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    watch = follow.Watch(tmp_path, 1e-6)
    watch.look()
    assert watch.pause > 1e-6
