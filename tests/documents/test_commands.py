"""The commands that the documents show without their output name what exists."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from support.documents import (
    BLOCK,
    BOOK,
    DOCUMENTS,
    LAB,
    README,
    blocks_without_output,
    fenced,
    table,
)
from support.processes import CLEAN, ROOT, UNMEASURED

from app import app

BLOCKS = [block for document in DOCUMENTS for block in blocks_without_output(document)]
# The commands that find tests. In the rest of the book, the reader writes the tests first.
PYTEST = re.findall(
    "^python -m pytest.*",
    "\n".join(blocks_without_output(LAB) + fenced("sh", BOOK.chapter("Debugging"))),
    re.MULTILINE,
)
# How a block begins that no test should run: it needs an account, a download, another terminal or
# many minutes, or another test runs it.
NOT_RUN = re.compile(
    r"git |heroku |mongodump |export |url=https|\.ci/run|\. env/bin/activate|python3 -m venv env"
    r"|python app\.py|python -m (pytest|coverage)|python tests/\w+\.py|npx --yes (newman|mongosh)"
    r"|PORT=5001"
    r"|curl -s http://127\.0\.0\.1:5001|curl -s .*\n\(for login in|url=.*(\n.*)*-d priority=high"
)


def test_first_screen_starts_the_server_and_the_tests():
    lines = README.text.splitlines()
    [start] = [line for line in lines[:60] if line.endswith("&& python app.py")]
    [check] = [line for line in lines[:60] if line.endswith("&& python -m pytest")]
    assert start.replace("python app.py", "python -m pytest") == check
    # `.ci/run` runs the first line that ends so.
    assert check == next(line for line in lines if line.endswith("python -m pytest"))
    # The first commands and their output are on this screen.
    assert README.text[: BLOCK.search(README.text).end()].count("\n") < 60


def test_every_document_starts_the_server_in_the_same_way():
    lines = re.findall("^python3 -m venv env && .*python app.py$", "\n".join(BLOCKS), re.MULTILINE)
    assert len(lines) > 1
    assert len(set(lines)) == 1


def test_commands_for_windows_are_those_of_the_other_systems():
    lines = "\n".join(fenced("powershell", README.text)).splitlines()
    windows = [line.replace("env\\Scripts\\", "").split("; ") for line in lines]
    first = ["python -m venv env", "python -m pip install -r tests/requirements.txt"]
    assert [*first, "python app.py"] in windows
    assert [*first, "python -m pytest"] in windows


@pytest.mark.parametrize("block", BLOCKS)
def test_block_without_output_cannot_be_run_here(block):
    assert NOT_RUN.match(block), "Show its output, or name in NOT_RUN how it begins."


def test_commands_name_files_variables_and_urls_that_exist():
    text = "\n".join(BLOCKS)
    files = re.findall(r"(?<![\w./:-])[\w./-]+\.(?:py|txt|ini|json)\b", text)
    assert [path for path in files if not (ROOT / path).is_file()] == []

    variables = set(re.findall(r"(?:export |config:set |^|&& )([A-Z_]{4,})=", text, re.MULTILINE))
    assert variables <= {row[0] for row in table("variable", README.text)}

    urls = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    assert set(re.findall(r"\$url/(\w+)", text)) <= urls


def test_mongosh_commands_name_collections_that_exist():
    text = "\n".join(document.text for document in DOCUMENTS)
    names = set(re.findall(r"mongosh .*'db\.(\w+)", text))
    code = (ROOT / "db.py").read_text("utf-8")
    assert names
    assert [name for name in names if f"mongo.db.{name}" not in code] == []


def test_documents_name_one_version_of_newman():
    versions = {
        version for document in DOCUMENTS for version in re.findall(r"newman@\S+", document.text)
    }
    assert len(versions) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", PYTEST)
def test_pytest_command_finds_tests(line):
    command = [sys.executable, *shlex.split(line)[1:], "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, env=UNMEASURED, stdout=subprocess.DEVNULL)
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="needs bash")
def test_virtual_environment_is_created_as_shown(tmp_path):
    [block] = BLOCK.finditer(README.chapter("Environment Setup"))
    command = ["bash", "-ec", block["commands"]]
    done = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (block["output"], "")


def test_book_names_the_tests_of_every_exercise():
    words = re.findall(r"exercises\.py -k (\w+)", BOOK.chapter("Exercises"))
    tests = (ROOT / "tests/api/exercises.py").read_text("utf-8")
    names = re.findall(r"^def test_(\w+)", tests, re.MULTILINE)
    assert [word for word in words if not any(name.startswith(word) for name in names)] == []
    assert [name for name in names if not any(name.startswith(word) for word in words)] == []
