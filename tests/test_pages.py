"""The page of a sweep: what it says, that it needs nothing else, that what it shows is data."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from planted_pages import Parsed, page_of, sweep, unfinish, value

from samop import pages, records, report
from samop.errors import UserError
from samop.pages import gallery, pictures


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep with curvature, its report written."""
    folder = tmp_path_factory.mktemp("whole")
    runs = planted.grid(value, widths=(4, 16), rhos=(0.05, 0.1), seeds=5, noises=(0.0, 0.4))
    planted.measured(runs, lambda hidden, noise, *_: {"lambda_max": 3.0 * hidden})
    report.write(planted.sweep(folder, runs))
    return folder


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
