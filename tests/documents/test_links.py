"""The links, anchors, headings and tables of the documents."""

import re
from collections import Counter

import pytest
from support.documents import DOCUMENTS
from support.processes import ROOT

from app import app

BY_PATH = {document.path: document for document in DOCUMENTS}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


def target(document, link):
    """Return the file that a link leads to, and the anchor in it."""
    path, _, anchor = link.partition("#")
    file = (document.path.parent / path).resolve() if path else document.path
    return file, anchor


def is_broken(document, link):
    """Return whether a link leads to no file, or to no heading of a document."""
    file, anchor = target(document, link)
    if not anchor:
        return not file.exists()
    return file not in BY_PATH or anchor not in BY_PATH[file].anchors()


@each_document
def test_every_link_leads_to_a_file_or_a_heading(document):
    links = document.links()
    assert len(links) > 5
    assert [link for link in links if is_broken(document, link)] == []


@each_document
def test_every_document_links_to_the_other_two_at_its_beginning(document):
    before_first_chapter = document.text.split("\n## ")[0]
    links = re.findall(r"\]\(([^)]+)\)", before_first_chapter)
    linked = {target(document, link)[0] for link in links}
    assert BY_PATH.keys() - {document.path} <= linked


@each_document
def test_every_heading_is_unique(document):
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()) for title in document.headings()]
    assert [anchor for anchor, count in Counter(anchors).items() if count > 1] == []


@each_document
def test_headings_name_files_and_urls_that_exist(document):
    urls = {re.sub(r"<string:", "<", rule.rule) for rule in app.url_map.iter_rules()}
    for title in document.headings():
        for name in re.findall(r"`([^`]+)`", title):
            # A name with a dot or a slash is one of a file, a folder or a URL.
            path = name.split(" ")[-1]
            if re.search("[./]", path):
                assert path in urls or (ROOT / path.strip("/")).exists(), title


@each_document
def test_every_row_of_a_table_has_as_many_cells_as_its_head(document):
    blocks = [block.splitlines() for block in document.prose.split("\n\n") if "|\n|" in block]
    assert blocks
    for head, *rows in blocks:
        cells = len(re.findall(r"(?<!\\)\|", head))
        for row in rows:
            assert re.fullmatch(r"\|.*\|", row) and len(re.findall(r"(?<!\\)\|", row)) == cells, row
