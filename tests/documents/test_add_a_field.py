"""The chapter "Add a field" of the book works as it says, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.documents import BOOK, fenced, normalised
from support.processes import CLEAN, Server
from support.project import Project

from resources.todo import FIELDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.name == "nt" or not (shutil.which("npx") and shutil.which("curl")),
        reason="needs bash, curl and npx",
    ),
    pytest.mark.skipif(
        FIELDS.keys() != {"name", "description", "done", "id", "created_at"},
        reason="todos have another field already, and the chapter begins without one",
    ),
]

TODO = "resources/todo.py"
TESTS = "tests/api/test_todos.py"


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


@pytest.fixture
def chapter():
    """The code of the chapter: the test, and what its steps add."""
    names = ("test", "check", "field", "stored", "shown")
    return dict(zip(names, fenced("python", BOOK.chapter("Add a field")), strict=True))


def add_check(project, chapter):
    """Do step 3."""
    comment = (
        "# A client that sends back the whole todo that it got learns to leave out the last two."
    )
    project.add_before(TODO, comment, f"{chapter['check']}\n\n")
    project.add_after(TODO, '    "done": boolean,', chapter["field"])


def store(project, chapter):
    """Do step 4."""
    project.add_after(TODO, '            "done": fields.get("done", False),', chapter["stored"])


def show(project, chapter):
    """Do step 5."""
    project.add_after(TODO, '        "done": todo["done"],', chapter["shown"])


def test_steps_work_as_the_chapter_says(project, chapter, mongod, database, tmp_path):
    [name] = re.findall(r"^def (test_\w+)", chapter["test"], re.MULTILINE)
    project.append(TESTS, chapter["test"])
    assert project.failing(TESTS, "-k", "priority") == {name}
    # What "If it does not pass" says of a step that is left out.
    show(project, chapter)
    _, output = project.test(TESTS, "-k", "priority")
    assert "Unknown field." in output
    add_check(project, chapter)
    _, output = project.test(TESTS, "-k", "priority")
    assert "assert 'normal' == 'high'" in output
    store(project, chapter)
    assert project.failing(TESTS, "-k", "priority") == set()

    # The response of the server.
    command = [sys.executable, "app.py"]
    server = Server(command, tmp_path / "log", mongod.uri, cwd=project.folder)
    try:
        server.wait()
        assert_response(server)
    finally:
        server.kill()


def assert_response(server):
    """Assert that the commands of the chapter print what the chapter shows."""
    text = BOOK.chapter("Add a field")
    [commands] = [code for code in fenced("sh", text) if "priority=high" in code]
    [shown] = fenced("json", text)
    for path in ("/register", "/login"):
        response = server.post(path, data={"username": "alice", "password": "open-sesame"})
        assert response.ok
    token = response.json()["access_token"]
    server.post("/todos", token, json={"name": "milk"})
    script = commands.replace("http://127.0.0.1:5000", server.url)
    done = subprocess.run(["bash", "-c", script], env=CLEAN, capture_output=True, text=True)
    added, listed = done.stdout.splitlines(keepends=True)
    assert normalised(added) == normalised(shown)
    priorities = [todo["priority"] for todo in json.loads(listed)["todos"]]
    assert priorities == ["normal", "high"]


def test_update_writes_what_else_mentions_a_todo(project, chapter):
    project.append(TESTS, chapter["test"])
    add_check(project, chapter)
    store(project, chapter)
    show(project, chapter)

    # --update writes all of it but the reference and a test.
    assert project.failing("tests/documents/test_excerpts.py") != set()
    reference = "test_reference_names_every_field_of_a_todo"
    assert project.failing("tests/documents", "--update") == {reference}
    [first] = re.findall(r"^def (test_\w+)", project.read(TESTS), re.MULTILINE)[:1]
    assert project.failing(TESTS) == {first}

    # The first test of the file says what a todo is.
    line = '        "created_at": todo["created_at"],'
    project.replace(TESTS, f"^{re.escape(line)}", f'        "priority": "normal",\n{line}')
    # The API reference.
    project.replace("README.md", '"done", "created_at"}`', '"done", "priority", "created_at"}`')
    optional = "`name`, `description`?, `done`?"
    project.replace("README.md", re.escape(optional), f"{optional}, `priority`?")
    fields = "one or more of `name`, `description`, `done`"
    project.replace("README.md", fields, f"{fields}, `priority`")
    row = "| `priority` | `low`, `normal` or `high`. The default is `normal` |\n"
    project.add_after("README.md", "| `done` | `true` or `false`. The default is `false` |", row)
    assert project.failing(TESTS, "tests/documents") == set()
