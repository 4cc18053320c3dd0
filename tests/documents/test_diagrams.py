"""The diagrams of the documents: Mermaid can draw them, and they name what exists."""

import ast
import itertools
import json
import re
import shutil
import subprocess

import pytest
from support.clients import ERROR_CODES, ROUTES
from support.documents import DOCUMENTS, README, fenced
from support.processes import CLEAN, ROOT

NPM = shutil.which("npm", path=CLEAN["PATH"])
PARSE = """
import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
globalThis.window = window;
globalThis.document = window.document;
const mermaid = (await import("mermaid")).default;
for (const diagram of JSON.parse(readFileSync(0, "utf8"))) {
    await mermaid.parse(diagram);
}
"""


def diagrams():
    """Return the diagrams of all documents."""
    return [diagram for document in DOCUMENTS for diagram in fenced("mermaid", document.text)]


@pytest.mark.slow
@pytest.mark.skipif(not NPM, reason="Mermaid needs npm, which comes with Node.js")
def test_mermaid_can_draw_every_diagram(tmp_path):
    packages = ["mermaid@11.17.2", "jsdom@26.1.0"]
    install = [NPM, "install", "--prefix", tmp_path, "--no-audit", "--no-fund", *packages]
    subprocess.run(install, check=True, env=CLEAN, capture_output=True, timeout=300)
    script = tmp_path / "parse.mjs"
    script.write_text(PARSE)
    drawn = parse(script, diagrams())
    assert drawn.returncode == 0, drawn.stderr
    # Otherwise a parser that accepts everything would go unnoticed.
    assert parse(script, ["flowchart TD\n a --> --> b"]).returncode != 0


def parse(script, diagrams):
    """Let Mermaid read diagrams, as GitHub does."""
    return subprocess.run(
        ["node", script], env=CLEAN, input=json.dumps(diagrams), text=True, capture_output=True
    )


def modules():
    """Return the modules of the app by their paths, each as a syntax tree."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("resources/*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def imports(tree):
    """Return the paths of the app's modules that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {path for path in modules() if path.removesuffix(".py").replace("/", ".") in names}


def test_diagram_of_the_files_shows_every_import():
    [diagram] = fenced("mermaid", README.chapter("Project structure"))
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', diagram))
    arrows = set()
    for line in diagram.splitlines()[1:]:
        # In Mermaid, `a & b --> c` is an arrow from each of the two to the third.
        groups = [
            [labels.get(node, node) for node in re.findall(r"[\w.]+", group)]
            for group in re.sub(r"\[.*?\]", "", line).split("-->")
        ]
        for sources, targets in zip(groups, groups[1:]):
            arrows |= set(itertools.product(sources, targets))
    imported = {(path, other) for path, tree in modules().items() for other in imports(tree)}
    # Heroku starts uWSGI, and uWSGI loads run.py.
    assert arrows == imported | {("Procfile", "uwsgi.ini"), ("uwsgi.ini", "run.py")}


def test_diagrams_name_what_exists():
    text = "\n".join(diagrams())
    files = set(re.findall(r"[\w/]+\.(?:py|ini|txt)\b", text))
    assert [file for file in files if not (ROOT / file).exists()] == []

    routes = {(method, url.split("/")[1]) for method, url, *_ in ROUTES}
    named = set(re.findall(r"\b(GET|POST|PUT|DELETE) /(\w+)", text))
    assert named and named <= routes

    errors = re.findall(r"\b(\d{3}) (\w+_\w+|not_found)", text)
    assert len(errors) > 5
    assert [pair for pair in errors if ERROR_CODES.get(pair[1]) != int(pair[0])] == []

    code = "\n".join(path.read_text("utf-8") for path in map(ROOT.joinpath, modules()))
    names = set(re.findall(r"\b\w*_\w+\b", text)) - ERROR_CODES.keys()
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_diagrams_show_the_greenlets_of_a_worker():
    greenlets = re.search(r"^gevent = (\d+)$", (ROOT / "uwsgi.ini").read_text(), re.MULTILINE)[1]
    numbers = set(re.findall(r"(\d+) greenlets", "\n".join(diagrams())))
    assert numbers == {greenlets}
