"""The tables of tests/README.md, the lab, name what exists."""

import re

from support.documents import LAB, table
from support.processes import ROOT

import db


def test_table_of_mistakes_has_the_error_codes_of_the_app():
    codes = [int(code) for code, *_ in table("code", LAB.chapter("MongoDB's error codes"))]
    assert codes == sorted(db.MISTAKES)


def test_tests_that_the_maintenance_names_exist():
    named = set(re.findall(r"`(test_\w+)`", LAB.chapter("Maintenance")))
    assert named
    files = [path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py")]
    defined = {
        name for text in files for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    }
    assert named - defined == set()


def test_names_in_the_table_of_undocumented_behaviour_exist():
    rows = table("package", LAB.chapter("Upgrading the pins").partition("does not document")[2])
    for *_, where, _ in rows:
        *names, path = re.sub(r" in ", " ", where).split(" ")
        code = (ROOT / path).read_text(encoding="utf-8")
        assert [name for name in names if name not in code] == [], where
