"""CITATION.cff: what format 1.2.0 asks for, and that it cites this version and the paper."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

import samop

ROOT = Path(__file__).parent.parent
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
# Of the format's keys those that may stand at the top, and beside a reference's own.
TOP = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi",
    "identifiers", "keywords", "license", "license-url", "message", "preferred-citation",
    "references", "repository", "repository-artifact", "repository-code", "title", "type", "url",
    "version",
}  # fmt: skip
PERSON = {"affiliation", "alias", "email", "family-names", "given-names", "name-suffix", "orcid"}


def check_authors(authors):
    assert authors
    for author in authors:
        assert "name" in author or {"family-names", "given-names"} <= set(author) <= PERSON


def test_the_keys_and_types_that_the_format_has():
    assert CITATION["cff-version"] == "1.2.0"
    assert set(CITATION) <= TOP
    assert {"message", "title", "authors", "license", "version"} <= set(CITATION)
    assert CITATION["type"] in ("software", "dataset")
    assert all(isinstance(CITATION[key], str) for key in ("message", "title", "version", "license"))
    assert isinstance(CITATION["date-released"], datetime.date)
    check_authors(CITATION["authors"])


def test_this_version_and_the_date_that_the_changelog_gives():
    assert CITATION["version"] == samop.__version__
    dates = dict(re.findall(r"^## (\S+) – (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M))
    assert dates[samop.__version__] == CITATION["date-released"].isoformat()


def test_the_paper():
    paper = CITATION["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert {"title", "year", "conference", "authors"} <= set(paper)
    assert paper["conference"]["name"]
    assert isinstance(paper["year"], int)
    check_authors(paper["authors"])
    assert [author["family-names"] for author in paper["authors"]] == [
        "Shin", "Lee", "Andriushchenko", "Lee",
    ]  # fmt: skip
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().split())
    assert paper["url"] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("key", ["repository-code", "url", "doi"])
def test_no_address_is_invented(key):
    """samop itself has none yet: who publishes it adds them, here and in pyproject.toml."""
    assert key not in CITATION
    assert "urls" not in (ROOT / "pyproject.toml").read_text()
