"""A copy of the project, in which a test works as a reader of the book does."""

import re
import subprocess
import sys

from support.processes import UNMEASURED, copy_project


class Project:
    """A copy of the project in a folder."""

    def __init__(self, folder):
        self.folder = copy_project(folder)

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

    def add_before(self, path, line, new):
        """Add lines before a line, which is once in the file."""
        self.replace(path, f"^{re.escape(line)}\n", f"{new}{line}\n")

    def test(self, *arguments):
        """Run tests, and return the names of those that fail, and the output."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=UNMEASURED, capture_output=True, text=True
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return set(re.findall(r"^FAILED \S+?::(\w+)", done.stdout, re.MULTILINE)), done.stdout

    def failing(self, *arguments):
        """Run tests, and return the names of those that fail."""
        return self.test(*arguments)[0]
