"""The page of a sweep: what it says, that it needs nothing else, that what it shows is data."""

import html.parser
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from scipy import stats

from samop import config, pages, records, report, results, wording
from samop.errors import UserError
from samop.headline import headlines
from samop.pages import gallery, pictures, standing

VOID = {"meta", "link"}


class Parsed(html.parser.HTMLParser):
    """Every tag of a page; fails where one is not closed by its own."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")


def value(hidden, noise, seed, rho):
    """Under noise the gain grows with the width; without it there is none on average."""
    rng = np.random.default_rng([hidden, seed, int(1000 * (rho or 0)), int(10 * noise)])
    gain = 0.02 * math.log2(hidden) * (noise > 0) * (rho is not None)
    level = 0.6 + gain + 0.004 * rng.normal()
    return [(level - 0.05, level - 0.05), (level, level)]


def sweep(folder, **kwargs):
    kwargs = {"seeds": 5, "noises": (0.0, 0.4), **kwargs}
    return planted.sweep(folder, planted.grid(value, **kwargs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep with curvature, its report written."""
    folder = tmp_path_factory.mktemp("whole")
    runs = planted.grid(value, widths=(4, 16), rhos=(0.05, 0.1), seeds=5, noises=(0.0, 0.4))
    planted.measured(runs, lambda hidden, noise, *_: {"lambda_max": 3.0 * hidden})
    report.write(planted.sweep(folder, runs))
    return folder


def page_of(folder):
    return (folder / pages.FILE).read_text(encoding="utf-8")


def test_a_page_parses_and_needs_nothing_beside_it(whole):
    text = page_of(whole)
    parsed = Parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in parsed.tags
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "srcset", "data", "xlink:href"):
            target = attributes.get(name, "") or ""
            inside = target.startswith(("#", "data:"))
            assert not target or inside or (tag == "a" and (whole / target).exists()), target
    assert not re.search(r"url\((?!#)|@import", text)


def test_every_name_is_unique_and_every_inner_link_leads_somewhere(whole):
    tags = Parsed(page_of(whole)).tags
    names = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(names) == len(set(names))
    inner = {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")}
    inner |= {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a}
    assert inner <= set(names)
    clips = re.findall(r"url\(#([^)]+)\)", page_of(whole))
    assert clips
    assert set(clips) <= set(names)


def test_figures_and_tables_say_what_they_are(whole):
    tags = Parsed(page_of(whole)).tags
    drawings = [a for tag, a in tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(drawings) >= 5
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 30
    heads = [a for tag, a in tags if tag == "th"]
    assert heads
    assert {a["scope"] for a in heads} == {"row", "col"}
    assert sum(tag == "figure" for tag, _ in tags) == len(drawings)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_everything_that_was_written_is_linked(whole):
    links = {a["href"] for tag, a in Parsed(page_of(whole)).tags if tag == "a"}
    written = [p for p in whole.rglob("*") if p.suffix in (".csv", ".pdf", ".png")]
    assert {path.relative_to(whole).as_posix() for path in written} <= links
    assert len(written) >= 15


def test_two_pages_are_the_same_bytes(tmp_path):
    sweep(tmp_path, widths=(4, 8), seeds=2, rhos=(0.1,), noises=(0.0,))
    first = report.page(tmp_path).read_bytes()
    assert report.page(tmp_path).read_bytes() == first


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


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"


def test_names_from_a_folder_are_text(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    for run in runs:
        run["config"]["data"]["name"] = HOSTILE
        run["config"]["model"]["name"] = "a<b"
    planted.sweep(tmp_path, runs)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan |= {"experiment": HOSTILE, "command": f"python {HOSTILE}"}
    missing = "x<i>y"
    plan["points"].append(missing)
    records.write_json(tmp_path / "plan.json", plan)
    report.page(tmp_path)
    text = page_of(tmp_path)
    parsed = Parsed(text)
    tags = {tag for tag, _ in parsed.tags}
    assert tags.isdisjoint({"script", "img", "i"})
    assert not [a for _, a in parsed.tags if "onerror" in a]
    assert "<script>alert(1)</script>" in parsed.text
    assert missing in parsed.text
    assert "{{ 7*7 }}" in parsed.text


# What is not finished.


def unfinish(folder, names, *, begun=True):
    for name in names:
        (folder / "points" / name / "DONE").unlink()
        rows = folder / "points" / name / "metrics.jsonl"
        lines = rows.read_text().splitlines(keepends=True)
        # Half a line at the end, as a process leaves that is writing just now.
        rows.write_text(lines[0] + lines[1][:20] if begun else "")


def test_half_a_sweep_has_a_page_that_says_so_and_no_files(tmp_path):
    sweep(tmp_path, widths=(4, 8), seeds=3, rhos=(0.1,), noises=(0.0,))
    names = sorted(p.name for p in (tmp_path / "points").iterdir())
    unfinish(tmp_path, names[:3])
    unfinish(tmp_path, names[3:5], begun=False)
    with pytest.raises(UserError, match=r"5 of 12 runs are not finished.*report\.html shows"):
        report.write(tmp_path)
    text = page_of(tmp_path)
    parsed = Parsed(text)
    assert "Unfinished: 7 of 12 runs are at their end" in parsed.text
    assert text.index("Unfinished") < text.index("Headline") < text.index("<figure")
    assert "3 runs are partly trained, 2 have not begun" in parsed.text
    assert all(name in parsed.text for name in names[:5])
    assert not list(tmp_path.glob("*.csv"))
    assert not [a for tag, a in parsed.tags if tag == "a" and not a["href"].startswith("#")]
    assert not [a for _, a in parsed.tags if a.get("http-equiv") == "refresh"]


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path):
    names = [run["name"] for run in planted.grid(value)]
    planted.sweep(tmp_path, [], plan=names)
    with pytest.raises(UserError, match="none of its 48 runs was started"):
        report.write(tmp_path)
    text = Parsed(page_of(tmp_path)).text
    assert "Unfinished: 0 of 48 runs" in text
    assert "No run is finished" in text


def test_diverged_runs_are_named(tmp_path):
    runs = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    runs[1]["losses"] = [0.5, math.nan]
    report.page(planted.sweep(tmp_path, runs))
    text = Parsed(page_of(tmp_path)).text
    assert "1 diverged (at their end, with values that are not finite)" in text
    assert runs[1]["name"] in text


def test_a_page_that_is_followed_reads_itself_again(tmp_path):
    sweep(tmp_path, widths=(4, 8), seeds=2, rhos=(0.1,), noises=(0.0,))
    unfinish(tmp_path, [next((tmp_path / "points").iterdir()).name])
    report.page(tmp_path, pages.Live(7, "12:00:00"))
    refresh = [a for _, a in Parsed(page_of(tmp_path)).tags if a.get("http-equiv") == "refresh"]
    assert refresh == [{"http-equiv": "refresh", "content": "7"}]
    assert "As of 12:00:00" in page_of(tmp_path)


def test_a_folder_without_a_sweep_has_no_page(tmp_path):
    with pytest.raises(UserError, match=r"no plan\.json"):
        report.page(tmp_path)
    assert not list(tmp_path.iterdir())


# How far a sweep is.


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


# Colours.


def test_every_colour_has_a_light_and_a_dark_value(whole):
    text = page_of(whole)
    style = text[text.index("<style>") : text.index("</style>")]
    used = set(re.findall(r"var\((--c[0-9a-f]{6})[,)]", text))
    light, night = (set(re.findall(r"(--c[0-9a-f]{6}):", part)) for part in split(style))
    assert used <= light
    assert light == night
    for drawn in re.findall(r'<svg viewBox="0 \d.*?</svg>', text, flags=re.DOTALL):
        assert not re.search(r'style="[^"]*#[0-9a-f]{6}', drawn)


def split(style):
    """The figures' own palette: what it says for light pages, and for dark ones."""
    start = style.rindex(":root{", 0, style.rindex("@media (prefers-color-scheme: dark){"))
    own = style[start:]
    middle = own.index("@media")
    return own[:middle], own[middle:]


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("color", ["#000000", "#333333", "#0067a5", "#737373"])
def test_what_can_be_read_on_white_can_be_read_in_the_dark(color):
    contrast = (luminance(pictures.dark(color)) + 0.05) / (luminance("#171717") + 0.05)
    assert contrast > 4.5


def test_the_page_is_package_data():
    folder = Path(pages.__file__).parent
    assert {p.name for p in folder.glob("*.html")} == {"report.html", "parts.html"}
    assert (folder / "report.css").exists()


def test_every_arm_has_figures_of_its_own():
    name = "optimizer.decay"
    runs = pd.DataFrame()
    runs.attrs["kinds"] = {"gsam": [name]}
    arms = [{"transform": "gsam", name: number} for number in (-0.1, 0.1, 1e-05, 1e05)]
    suffixes = [gallery._suffix(1, arm, runs) for arm in arms]
    assert len(set(suffixes)) == len(arms)
    assert suffixes[:2] == ["_gsam_decay_minus_0.1", "_gsam_decay_0.1"]
    assert all(re.fullmatch(r"[a-z0-9._]+", suffix) for suffix in suffixes)
