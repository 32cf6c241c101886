"""A sweep's gain in a sentence: what it says of slopes that grow, fall, or cannot be told."""

import json
import math
import re
from pathlib import Path

import numpy as np
import planted
import pytest
from planted_pages import Parsed, page_of, sweep
from scipy import stats

from samop import pages, records, report, results, wording
from samop.headline import headlines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = sweep(tmp_path_factory.mktemp("whole"), widths=(4, 16), rhos=(0.05, 0.1))
    report.page(folder)
    return folder


def slope_of(folder, noise):
    """The slope of the gain on log₂ of the parameters per seed, recomputed from the records."""
    found = {}
    for path in folder.glob("points/*/config.json"):
        record = json.loads(path.read_text())
        rows = records.read_rows(path.with_name("metrics.jsonl"))
        config, optimizer = record["config"], record["config"]["optimizer"]
        rho = None if optimizer["name"] == "base" else optimizer["rho"]
        place = (record["parameters"], config["data"]["label_noise"], config["seed"], rho)
        found[place] = rows[-1]["validation_accuracy"], rows[-1]["test_accuracy"]
    widths, seeds = sorted({k[0] for k in found}), sorted({k[2] for k in found})
    rhos = sorted({k[3] for k in found} - {None})
    slopes = []
    for seed in seeds:
        gains = []
        for width in widths:
            others = [s for s in seeds if s != seed]
            scores = [np.mean([found[width, noise, s, r][0] for s in others]) for r in rhos]
            best = rhos[int(np.argmax(scores))]
            base = found[width, noise, seed, None][1]
            gains.append(100 * (found[width, noise, seed, best][1] - base))
        slopes.append(np.polyfit(np.log2(widths), gains, 1)[0])
    half = stats.t.ppf(0.975, len(seeds) - 1) * np.std(slopes, ddof=1) / np.sqrt(len(seeds))
    return np.mean(slopes), half


@pytest.mark.parametrize(
    ("noise", "words"), [(0.0, "has no clear trend with width:"), (0.4, "grows by")]
)
def test_the_headline_is_the_slope_with_its_interval(whole, noise, words):
    mean, half = slope_of(whole, noise)
    assert (abs(mean) > half) == (noise > 0)
    sign = "−" if mean < 0 else "+"
    sentence = (
        f"SAM’s gain over SGD {words} {sign}{abs(mean):.2f} ± {half:.2f} points per doubling of "
        "the parameters, from "
    )
    text = Parsed(page_of(whole)).text
    assert sentence in text
    rest = text.split(sentence)[1]
    number = r"[+−]?[\d.]+ ± [\d.]+"
    assert re.match(
        rf"{number} at 4-4 to {number} at 16-16 \(95 % t interval, 5 seeds, p [=<] [\d.]+, "
        r"not adjusted over the 2 headlines\)\.",
        rest,
    )


def test_a_gain_that_falls_is_said_to_fall(tmp_path):
    def falling(hidden, noise, seed, rho):
        gain = -0.03 * math.log2(hidden) if rho else 0.001 * seed
        return [(0.9 + gain, 0.9 + gain)]

    runs = results.load(planted.sweep(tmp_path, planted.grid(falling)))
    (headline,) = headlines(runs)
    assert headline.trend == "falls"
    assert re.search(r"falls by [\d.]+ ± [\d.]+ points per doubling", headline.text)
    assert float(headline.text.split("falls by ")[1].split()[0]) > 0
    assert "not adjusted" not in headline.source  # it is the only one


def planned(gain, *, level=0.5, sign=1.0, spread=1e-4, widths=(4, 8, 16, 32)):
    """A grid whose gain is gain(log₂ of the width), but for a little that differs by seed."""

    def of(hidden, noise, seed, rho):
        score = level + sign * (gain(math.log2(hidden)) + spread * seed * hidden / 32) * bool(rho)
        return [(score, score)]

    return planted.grid(of, widths=widths, rhos=(0.1,))


def test_a_gain_that_grows_while_sam_loses_everywhere_is_no_success(tmp_path):
    gains = planned(lambda size: -0.2 + 0.03 * size)
    (headline,) = headlines(results.load(planted.sweep(tmp_path, gains)))
    assert headline.trend == "behind"
    assert re.fullmatch(
        r"What SAM loses to SGD shrinks by [\d.]+ ± [\d.]+ points per doubling of the parameters: "
        r"the gain goes from −14\.\d\d ± [\d.]+ at 4-4 to −4\.\d\d ± [\d.]+ at 32-32, and SAM "
        r"stays behind",
        headline.text,
    )
    style = (Path(pages.__file__).parent / "report.css").read_text()
    assert ".headline.grows" in style
    assert ".headline.behind" not in style  # the neutral colour


def test_the_headline_of_a_loss_says_which_way_is_better(tmp_path):
    runs = planned(lambda size: -0.1 + 0.05 * size, level=2.0, sign=-1.0)
    folder = planted.sweep(tmp_path / "gains", runs, metric=planted.LOSS)
    (headline,) = headlines(results.load(folder))
    assert headline.trend == "grows"
    assert re.fullmatch(
        r"SAM’s gain over SGD in lower test loss grows by \+0\.[\d.]+ ± [\d.]+ per doubling of the "
        r"parameters, from \+?0\.00\d+ ± [\d.]+ at 4-4 to \+0\.15\d+ ± [\d.]+ at 32-32",
        headline.text,
    )
    *_, widest = headline.more
    gain = r"gain in lower test loss \+0\.15\d+ ± [\d.]+\.$"
    assert re.search(rf"SAM 1\.8\d+, SGD 2\.0+, {gain}", widest)

    runs = planned(lambda size: -0.5 + 0.05 * size, level=2.0, sign=-1.0)
    folder = planted.sweep(tmp_path / "loses", runs, metric=planted.LOSS)
    (headline,) = headlines(results.load(folder))
    assert headline.trend == "behind"
    assert headline.text.startswith("What SAM loses to SGD in test loss shrinks by 0.")
    assert "−0.3" in headline.text.split(" at 4-4")[0].rpartition("from ")[2]


@pytest.mark.parametrize("slope", [0.0, 1e-5])
def test_a_small_slope_has_digits_and_the_largest_widths_say_how_clear_they_are(tmp_path, slope):
    gains = planned(lambda size: slope * size, spread=1e-6)
    (headline,) = headlines(results.load(planted.sweep(tmp_path, gains)))
    change = re.search(r"([+−]?[\d.]+) ± ([\d.]+) points per", headline.text)
    assert float(change[2]) > 0  # the interval is not rounded away
    assert slope == 0.0 or float(change[1]) > 0
    upper = headline.more[0]
    assert re.fullmatch(
        r"Over the 2 largest widths alone: .* ± .* parameters \(4 seeds\)(, no clear trend)?\.",
        upper,
    )
    mean, half = (float(x) for x in re.search(r"alone: \+?([\d.]+) ± ([\d.]+)", upper).groups())
    assert ("no clear trend" in upper) == (mean <= half) == (slope == 0.0)


@pytest.mark.parametrize(
    ("value", "half", "digits"),
    [(0.66, 0.31, 2), (0.004, 0.0011, 3), (0.5, 2e-4, 4), (0.5, 1e-17, 2), (3e-4, 0.0, 4),
     (3e-4, math.nan, 4), (1e-17, 1e-17, 2), (math.nan, math.nan, 2)],
)  # fmt: skip
def test_an_interval_is_not_rounded_away(value, half, digits):
    assert wording.digits_enough(value, half, 2) == digits


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"seeds": 1}, "one seed gives no interval"),
        ({"widths": (8,)}, "one width was run"),
        ({"rhos": ()}, "No gain can be computed"),
    ],
)
def test_a_headline_does_not_say_more_than_was_run(tmp_path, kwargs, words):
    kwargs = {"widths": (4, 8), "seeds": 2, "rhos": (0.1,), "noises": (0.0,), **kwargs}
    (headline,) = headlines(results.load(sweep(tmp_path, **kwargs)))
    assert headline.trend == "unknown"
    assert words in headline.text
    assert "±" not in headline.text
    report.page(tmp_path)
    assert words in Parsed(page_of(tmp_path)).text
