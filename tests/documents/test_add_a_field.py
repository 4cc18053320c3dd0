"""The chapter "Add a field" of the book works as it says, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.documents import BOOK, fenced
from support.processes import CLEAN, ROOT

from resources.todo import FIELDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.name == "nt" or not (shutil.which("npx") and shutil.which("curl")),
        reason="needs bash, curl and npx",
    ),
    pytest.mark.skipif(
        FIELDS.keys() != {"name", "description", "done"},
        reason="todos have another field already, and the chapter begins without one",
    ),
]

TODO = "resources/todo.py"
TESTS = "tests/api/test_todos.py"
# What a project holds besides the repository.
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".mongodb", ".hypothesis", ".*_cache", "env", "__pycache__"
)


class Project:
    """A copy of the project, in which a reader works."""

    def __init__(self, folder):
        self.folder = shutil.copytree(ROOT, folder, ignore=NOT_COPIED)

    def read(self, path):
        return (self.folder / path).read_text(encoding="utf-8")

    def append(self, path, code):
        """Append code to a file."""
        (self.folder / path).write_text(f"{self.read(path)}\n\n{code}", encoding="utf-8")

    def replace(self, path, old, new):
        """Replace what the pattern `old` matches, which is once in the file."""
        text, count = re.subn(old, lambda _: new, self.read(path), flags=re.MULTILINE | re.DOTALL)
        assert count == 1, f"{path} has {old!r} {count} times"
        (self.folder / path).write_text(text, encoding="utf-8")

    def add_after(self, path, line, new):
        """Add lines after a line, which is once in the file."""
        self.replace(path, f"^{re.escape(line)}\n", f"{line}\n{new}")

    def failing(self, *arguments):
        """Run tests, and return the names of those that fail."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=CLEAN, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return set(re.findall(r"^FAILED \S+?::(\w+)", done.stdout, re.MULTILINE))


def test_chapter_works_as_it_says(tmp_path):
    project = Project(tmp_path / "project")
    test, check, stored, shown = fenced("python", BOOK.chapter("Add a field"))
    [name] = re.findall(r"^def (test_\w+)", test, re.MULTILINE)

    # The test, which fails. Then the code, and it passes.
    project.append(TESTS, test)
    assert project.failing(TESTS, "-k", "priority") == {name}
    project.replace(TODO, r"^FIELDS = \{.*?\}\n", check)
    project.add_after(TODO, '            "done": fields.get("done", False),', stored)
    project.add_after(TODO, '        "done": todo["done"],', shown)
    assert project.failing(TESTS, "-k", "priority") == set()

    # What else mentions a todo: --update writes all of it but the last two.
    assert project.failing("tests/documents/test_excerpts.py") != set()
    project.failing("tests/documents", "--update")
    [first] = re.findall(r"^def (test_\w+)", project.read(TESTS), re.MULTILINE)[:1]
    by_hand = {first, "test_reference_names_every_field_of_a_todo"}
    assert project.failing(TESTS, "tests/documents") == by_hand

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
