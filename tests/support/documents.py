"""The three documents and the Postman collection, in the parts that the tests compare."""

import json
import re

from support.processes import ROOT
from werkzeug.exceptions import HTTPException

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
# Commands, and the output that follows them.
BLOCK = re.compile(
    r"(?P<head>^```sh\n(?P<commands>[^`]*)^```\n\n```(?P<kind>json|text|http)\n)"
    r"(?P<output>[^`]*)^```$",
    re.MULTILINE,
)
# A part of a file: the line before it is a link to the file and a colon.
EXCERPT = re.compile(
    r"^\[(?P<label>[\w./]+)\]\((?P<link>[\w./]+)\):\n\n"
    r"```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What differs from run to run.
CHANGING = re.compile(
    r"(?P<token>eyJ[\w.-]+)|(?<=after=)(?P<cursor>[\w.%-]+)"
    r"|(?P<time>\d{4}-\d\d-\d\dT[\d:.]{12}Z)|(?P<id>\b[0-9a-f]{24}\b)"
    r"|(?P<hash>\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]+\$[\w+/]+)"
    r"|(?P<uuid>[0-9a-f]{8}-[0-9a-f-]{27})|(?P<seconds>\b1[789]\d{8}\b)"
    r"|(?P<datetime>datetime\.datetime\([\d, ]+\))|(?<=Retry-After: )(?P<wait>\d+)"
    r"|(?<=User-Agent: )(?P<client>.+)|(?<=Server: )(?P<server>.+)|(?<=Date: )(?P<date>.+)"
)


class Document:
    """One of the documents."""

    def __init__(self, path):
        self.path = ROOT / path
        self.name = path

    def __repr__(self):
        return self.name

    @property
    def text(self):
        """The whole text. It is read each time, because --update changes it."""
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self):
        """The text with empty lines in place of its code blocks."""
        return FENCE.sub(lambda block: "\n" * block[0].count("\n"), self.text)

    def headings(self):
        """Return the titles of all headings, in order."""
        return [title for _, title in HEADING.findall(self.prose)]

    def anchors(self):
        """Return what a link to this document can have after its `#`, as GitHub does it."""
        kept = [re.sub(r"[^\w\- ]", "", title.lower()) for title in self.headings()]
        named = re.findall(r'<a (?:id|name)="([^"]+)"', self.prose)
        return {title.replace(" ", "-") for title in kept} | set(named)

    def chapter(self, title):
        """Return the text from a heading to the next one of its level or above."""
        lines = self.text.splitlines(keepends=True)
        begin, end, level = None, len(lines), 0
        for number, line in enumerate(self.prose.splitlines()):
            heading = HEADING.match(line)
            if heading and begin is None and heading[2] == title:
                begin, level = number, len(heading[1])
            elif heading and begin is not None and len(heading[1]) <= level:
                end = number
                break
        assert begin is not None, f"{self.name} has no heading {title!r}"
        return "".join(lines[begin:end])

    def chapters(self):
        """Return the titles of the chapters, which are the headings of the second level."""
        return [title for level, title in HEADING.findall(self.prose) if level == "##"]

    def links(self):
        """Return the targets of all links to files and headings of this repository."""
        targets = re.findall(r"\]\(([^)\s]+)\)", self.prose)
        targets += re.findall(r'(?:href|src)="([^"]+)"', self.prose)
        return [target for target in targets if not target.startswith(("https://", "http://"))]


README = Document("README.md")
BOOK = Document("resources/README.md")
LAB = Document("tests/README.md")
DOCUMENTS = [README, BOOK, LAB]


def fenced(language, text):
    """Return the code of all blocks in a language."""
    return [code for kind, code in FENCE.findall(text) if kind == language]


def blocks_without_output(document):
    """Return the blocks for a shell that the document shows without their output."""
    return fenced("sh", BLOCK.sub("", document.text))


def table(first_cell, text):
    """Return the rows of the table whose header begins so, as lists of cells without backticks."""
    pattern = rf"^\| {re.escape(first_cell)} \|.*\n\|[ :|-]+\n((?:\|.*\n)+)"
    found = re.search(pattern, text, re.MULTILINE)
    assert found, f"there is no table with {first_cell!r} in its first cell"
    rows = [re.split(r"(?<!\\)\|", row.strip("|")) for row in found[1].splitlines()]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


# Outputs that differ from run to run.


def normalised(text):
    """Return the text with its ids, times and cursors numbered in the order in which they appear.

    So two outputs are equal if the same id is in the same places, whatever its value.
    """
    seen = {}

    def name(match):
        kind = match.lastgroup
        if kind in ("id", "time", "cursor"):
            return f"{kind}{seen.setdefault(match[0], len(seen))}"
        # Whether two tokens are the same does not show, because the documents shorten them.
        return kind

    return CHANGING.sub(name, text)


def keep_old_values(shown, output):
    """Return the output with the ids, times and the like that were shown before.

    So a diff shows only what has changed. Tokens are shortened: none is kept in the repository.
    """
    output = re.sub(r"eyJ[\w.-]+", "eyJ...", output)
    before = [match[0] for match in CHANGING.finditer(shown)]
    if len(before) != len(CHANGING.findall(output)):
        return output
    values = iter(before)
    return CHANGING.sub(lambda _: next(values), output)


# The Postman collection.

COLLECTION_PATH = ROOT / "tests" / "todo-api.postman_collection.json"


def collection():
    """Return the Postman collection. It is read each time, because --update changes it."""
    return json.loads(COLLECTION_PATH.read_text(encoding="utf-8"))


def requests_of(collection):
    """Return the requests of a collection, in order."""
    return [request for folder in collection["item"] for request in folder["item"]]


def endpoint(adapter, item):
    """Return the endpoint and the method of a request. None if the API has no such URL."""
    path = item["request"]["url"].removeprefix("{{url}}").split("?")[0]
    method = item["request"]["method"]
    try:
        name, _ = adapter.match(re.sub(r"{{\w+}}", "x", path), method)
    except HTTPException:
        return None
    return name, method
