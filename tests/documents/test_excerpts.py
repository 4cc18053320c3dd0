"""The excerpts of the documents are in their files. `--update` copies them again."""

import ast
import difflib
import textwrap

import pytest
from support.documents import BOOK, DOCUMENTS, EXCERPT, fenced
from support.processes import ROOT

# The chapter whose code is not in a file yet, because the reader adds it.
TO_ADD = "Add a field"


def excerpts():
    """Return every excerpt with its document."""
    return [(document, part) for document in DOCUMENTS for part in EXCERPT.finditer(document.text)]


def parts(code):
    """Return the parts of an excerpt. Two empty lines are between them."""
    return [part.strip("\n") for part in code.split("\n\n\n")]


def contains(text, part):
    """Return whether a part is in a text, from the beginning of a line to the end of one."""
    return f"\n{part}\n" in f"\n{text}\n"


def read(label):
    """Return the text of the file that an excerpt names."""
    return (ROOT / label).read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def copied_again(update):
    """With --update, copy each function, class and constant that has changed in its file."""
    if update:
        for document in DOCUMENTS:
            document.path.write_text(EXCERPT.sub(copy, document.text), encoding="utf-8")


def copy(excerpt):
    """Return an excerpt with its parts in their present state."""
    new = [newest(part, read(excerpt["label"])) for part in parts(excerpt["code"])]
    return excerpt[0].replace(excerpt["code"], "\n\n\n".join(new) + "\n")


def newest(part, text):
    """Return the definition in `text` that has the name of this part. If there is none, the part.

    Several classes can have a method with this name. The most similar one is meant.
    """
    shown = definition_in(part)
    if contains(text, part) or shown is None:
        return part
    lines = text.splitlines()
    found = [
        source(node, lines, shown, with_comment=part.startswith("#"))
        for node in ast.walk(ast.parse(text))
        if name_of(node) == name_of(shown)
    ]

    def similarity(code):
        return difflib.SequenceMatcher(None, code, part).ratio()

    return max(found, key=similarity, default=part)


def definition_in(part):
    """Return the function, class or constant that a part consists of, as a node. None if it is not
    exactly one."""
    try:
        [statement] = ast.parse(textwrap.dedent(part)).body
    except (SyntaxError, ValueError):
        return None
    return statement if name_of(statement) else None


def name_of(node):
    """Return the name that a statement defines, or None."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def source(node, lines, shown, with_comment):
    """Return the lines of a definition, perhaps with the comment directly above it.

    Of a class whose first methods are shown, only up to the last one that is shown.
    """
    first = min(line.lineno for line in [node, *getattr(node, "decorator_list", [])]) - 1
    while with_comment and first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    last = node.end_lineno
    if isinstance(node, ast.ClassDef):
        last_shown = name_of(shown.body[-1])
        ends = [member.end_lineno for member in node.body if name_of(member) == last_shown]
        last = ends[0] if last_shown and ends else last
    return "\n".join(lines[first:last])


def test_every_part_of_an_excerpt_is_in_its_file():
    wrong = [
        f"{document} shows this part of {excerpt['label']}:\n{part}"
        for document, excerpt in excerpts()
        for part in parts(excerpt["code"])
        if not contains(read(excerpt["label"]), part)
    ]
    assert wrong == [], "\n\n".join(
        [
            "These parts differ from their files. To copy each function, class and constant again:"
            " python -m pytest tests/documents --update. Copy other parts by hand.",
            *wrong,
        ]
    )


def test_every_excerpt_links_to_the_file_that_it_names():
    found = excerpts()
    assert len(found) > 20
    for document, excerpt in found:
        linked = (document.path.parent / excerpt["link"]).resolve()
        assert linked == ROOT / excerpt["label"], f"{document}: {excerpt['label']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_code_without_a_file_is_only_in_the_chapter_that_adds_it(document):
    of_files = [excerpt["code"] for excerpt in EXCERPT.finditer(document.text)]
    to_add = fenced("python", BOOK.chapter(TO_ADD)) if document is BOOK else []
    shown = fenced("python", document.text) + fenced("ini", document.text)
    assert [code for code in shown if code not in of_files + to_add] == []
