"""What results makes of records: torn, corrupt, incomplete, of other sweeps and machines."""

import json

import planted
import pytest

from samop import report, results
from samop.errors import UserError


def test_incomplete_grid(tmp_path):
    runs = planted.random_grid(3, seeds=3)
    runs[0]["done"] = False
    names = [r["name"] for r in runs]
    planted.sweep(tmp_path, runs, plan=[*names, "never_started"])
    with pytest.raises(UserError) as caught:
        results.load(tmp_path)
    for words in ("2 of 37", "1 missing, 1 partial", "never_started", "allow_incomplete"):
        assert words in str(caught.value)
    table = results.load(tmp_path, allow_incomplete=True)
    state = results.completeness(table)
    assert (state.total, state.missing, state.partial) == (37, ("never_started",), (names[0],))
    # The base of seed 0 is unfinished at width 4: two pairs are left there.
    assert list(results.gains(table)["n"]) == [2, 3, 3]
    assert list(results.gains(table)["n_unpaired"]) == [1, 0, 0]
    slope = results.slopes(table).iloc[0]
    assert (slope["n"], slope["n_left_out"]) == (2, 1)
    assert "INCOMPLETE: 2 of 37" in results.table(table)


def test_a_torn_last_row_is_a_partial_run(tmp_path):
    runs = [planted.run(4, 0, None, [(0.5, 0.5)] * 3, done=False)]
    path = planted.sweep(tmp_path, runs) / "points" / runs[0]["name"] / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    table = results.load(tmp_path, allow_incomplete=True)
    assert (table["status"].item(), table["last_epoch"].item()) == ("partial", 2)
    assert "nothing to compare" in report.write(tmp_path, allow_incomplete=True)


def test_a_run_that_ends_while_it_is_read_is_not_done_yet(tmp_path, monkeypatch):
    """DONE comes after the rows were read without it: nothing has verified them."""
    runs = planted.grid(lambda *_: [(0.5, 0.5)], widths=(4,), seeds=1, rhos=())
    runs[0]["done"] = False
    planted.sweep(tmp_path, runs)
    real = results.read_rows

    def ends(path, **kwargs):
        rows = real(path, **kwargs)
        planted.finish(path.parent)
        return rows

    monkeypatch.setattr(results, "read_rows", ends)
    assert results.load(tmp_path, allow_incomplete=True)["status"].tolist() == ["partial"]
    assert results.load(tmp_path)["status"].tolist() == ["done"]


def test_points_of_earlier_sweeps(tmp_path):
    runs = planted.random_grid(4, seeds=3)
    latest = [r["name"] for r in runs if r["config"]["seed"] < 2]
    planted.sweep(tmp_path, runs, plan=latest)
    table = results.load(tmp_path)
    assert len(table) == len(latest) == 24
    assert table.attrs["others"] == 12
    assert "12 runs of earlier sweeps" in results.table(table)
    every = results.load(tmp_path, every=True)
    assert (len(every), every.attrs["others"]) == (36, 0)
    (tmp_path / "plan.json").unlink()
    assert len(results.load(tmp_path, every=True)) == 36


def test_corrupt_records_are_named(tmp_path):
    runs = [planted.run(4, s, None, [(0.5, 0.5), (0.6, 0.6)]) for s in range(2)]
    planted.sweep(tmp_path, runs)
    folder = tmp_path / "points" / runs[1]["name"]
    metrics, done, config = (folder / n for n in ("metrics.jsonl", "DONE", "config.json"))
    kept = {path: path.read_text() for path in (metrics, done, config)}

    def broken(path, text):
        for each, content in kept.items():
            each.write_text(content)
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            results.load(tmp_path)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    assert "line 2" in broken(metrics, kept[metrics].replace('0.6, "test', '0.7, "test'))
    assert "has 1 rows, DONE says 2" in broken(metrics, kept[metrics].splitlines()[0] + "\n")
    assert "sha256" in broken(done, kept[done].replace('256": "', '256": "0'))
    assert "DONE is damaged" in broken(done, "{")
    assert "it lacks metrics_sha256" in broken(done, '{"rows": 2}')
    assert "config.json is damaged" in broken(config, kept[config][:-10])
    assert "belongs to another run" in broken(config, kept[config].replace("seed1", "seed9", 1))
    config.unlink()
    done.write_text(kept[done])
    with pytest.raises(UserError, match=r"DONE but no config\.json"):
        results.load(tmp_path)


def test_no_work_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        results.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no plan\.json"):
        results.load(tmp_path)
    (tmp_path / "plan.json").write_text('{"points": []}')
    with pytest.raises(UserError, match="lists no points"):
        results.load(tmp_path)
    (tmp_path / "plan.json").write_text('{"points": ["a"]}')
    with pytest.raises(UserError, match="none of its 1 runs was started"):
        results.load(tmp_path, allow_incomplete=True)


def test_runs_of_different_configs_are_never_averaged(tmp_path):
    runs = []
    for s in range(3):
        for lr in (0.1, 0.3):
            for rho in (None, 0.1):
                test = lr + (0 if rho is None else 0.1 * lr) + 0.01 * s
                runs.append(planted.run(4, s, rho, [(0.5, test)], optimizer__lr=lr))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == ["optimizer.lr"]
    gains = results.gains(table)
    assert list(gains["optimizer.lr"]) == [0.1, 0.3]
    assert list(gains["gain"]) == pytest.approx([1, 3])
    assert "optimizer.lr = 0.3" in results.table(table)


def test_base_is_compared_with_every_kind_of_perturbation(tmp_path):
    runs = [planted.run(4, s, None, [(0.5, 0.5)]) for s in range(2)]
    for decayed in (False, True):
        for s in range(2):
            value = [(0.5, 0.7 if decayed else 0.6)]
            runs.append(planted.run(4, s, 0.1, value, optimizer__decay_in_ascent=decayed))
            runs.append(
                planted.run(4, s, 0.1, value, optimizer__name="asam", optimizer__eta=[1, decayed])
            )
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["ascent"] == ["optimizer.decay_in_ascent", "optimizer.eta"]
    gains = results.gains(table)
    assert list(gains["n"]) == [2] * 4
    assert sorted(gains["gain"]) == pytest.approx([10, 10, 20, 20])
    assert set(gains["transform"]) == {"sam", "asam"}
    assert len(results.slopes(table)) == 4
    text = results.table(table)
    assert "SAM (decay_in_ascent = true): " in text
    assert "ASAM (eta = [1, false]): " in text


def test_model_fields_behind_the_width(tmp_path):
    def runs(**by_hidden):
        return [
            planted.run(h, s, None, [(0.5, 0.5)], model__depth=depth)
            for h, depth in ((4, 2), (8, by_hidden["other"]))
            for s in range(2)
        ]

    table = results.load(planted.sweep(tmp_path / "a", runs(other=3)))
    assert table.attrs["varying"] == []  # the width's label determines the depth
    both = runs(other=3) + [planted.run(4, 5, None, [(0.5, 0.5)], model__depth=7)]
    assert results.load(planted.sweep(tmp_path / "b", both)).attrs["varying"] == ["model.depth"]


def test_the_same_run_twice_is_refused(tmp_path):
    first = planted.run(4, 0, None, [(0.5, 0.5)])
    second = {**first, "name": "copy"}
    table = results.load(planted.sweep(tmp_path, [first, second]))
    with pytest.raises(UserError, match="two runs of seed 0 differ in nothing"):
        results.gains(table)


def test_other_data_and_machines_are_noted(tmp_path):
    runs = planted.random_grid(5)
    planted.sweep(tmp_path, runs)
    path = tmp_path / "points" / runs[0]["name"] / "config.json"
    config = json.loads(path.read_text())
    config["data"]["sha256"] = "11"
    config["environment"]["device"] = "gpu"
    path.write_text(json.dumps(config))
    text = results.table(results.load(tmp_path))
    assert "2 different versions of the data" in text
    assert "2 environments" in text
