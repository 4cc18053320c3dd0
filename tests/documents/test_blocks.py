"""The commands of the documents print what the documents show. `--update` writes the outputs."""

import os
import re
import shutil
import subprocess

import pytest
from support.documents import BLOCK, DOCUMENTS, FENCE, README, keep_old_values, normalised
from support.processes import CLEAN, ROOT

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not (shutil.which("bash") and shutil.which("curl")),
    reason="needs bash and curl",
)

LANGUAGES = {"sh", "powershell", "json", "text", "http", "python", "ini", "js", "mermaid"}
END = "--- the end of a block ---\n"
CHAPTERS = [
    pytest.param(document, title, id=f"{document}: {title}")
    for document in DOCUMENTS
    for title in document.chapters()
    # test_commands.py creates the virtual environment, in another folder.
    if BLOCK.search(document.chapter(title)) and title != "Environment Setup"
]


def run(text, server, mongod):
    """Run the blocks of a text in one shell, and return the output of each."""
    blocks = list(BLOCK.finditer(text))
    script = f"echo '{END.strip()}'\n".join(block["commands"] for block in blocks)
    # The tests have their own server and database.
    script = script.replace("http://127.0.0.1:5000", server.url)
    script = script.replace("mongodb://localhost:27017", f"mongodb://127.0.0.1:{mongod.port}")
    script = script.replace(".todolistapp", ".test")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    outputs = done.stdout.replace(f"127.0.0.1:{server.port}", "127.0.0.1:5000").split(END)
    return [as_shown(block, output) for block, output in zip(blocks, outputs, strict=True)]


def as_shown(block, output):
    """Return the output of a block. Of `curl -v`, without curl's own remarks and its progress."""
    if block["kind"] != "http":
        return output
    lines = re.findall(r"^[<>].*|\{\".*", output, re.MULTILINE)
    return "".join(line.rstrip() + "\n" for line in lines)


def differences(text, outputs):
    """Return each output that differs from the one that the text shows, as (shown, printed)."""
    # All together, because the ids of one block appear again in later ones.
    shown = normalised(END.join(block["output"] for block in BLOCK.finditer(text))).split(END)
    printed = normalised(END.join(outputs)).split(END)
    return [pair for pair in zip(shown, printed, strict=True) if pair[0] != pair[1]]


def write(document, text, outputs):
    """Put the outputs of a chapter into its document."""
    printed = iter(outputs)

    def with_output(block):
        return block["head"] + keep_old_values(block["output"], next(printed)) + "```"

    new = BLOCK.sub(with_output, text)
    document.path.write_text(document.text.replace(text, new), encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_block_has_a_language(document):
    assert "```" not in document.prose
    assert {language for language, _ in FENCE.findall(document.text)} <= LANGUAGES


@pytest.mark.parametrize(("document", "title"), CHAPTERS)
def test_commands_print_what_the_document_shows(
    development_server, database, mongod, document, title, update
):
    text = document.chapter(title)
    outputs = run(text, development_server, mongod)
    different = differences(text, outputs)
    if different and update:
        write(document, text, outputs)
        return
    assert different == [], (
        f"{document} shows other outputs. If the new ones are right, write them into it:"
        " python -m pytest tests/documents --update"
    )


def test_block_with_a_wrong_output_is_found(development_server, database, mongod):
    text = README.chapter("Testing with curl").replace("Todo deleted.", "Gone.", 1)
    assert len(differences(text, run(text, development_server, mongod))) == 1
