"""What a developer has beside the repository does not reach git."""

import shutil
import subprocess

import pytest
from support.processes import ROOT

ENVIRONMENTS = ["env/bin/python", "venv/bin/python", ".venv/bin/python", ".env/bin/python"]
SETTINGS = [".env.local", "resources/.env"]
LEFT_BEHIND = [".mongodb/mongod.log", "resources/__pycache__/user.pyc", ".pytest_cache/README.md"]


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_ignores_what_is_not_of_the_project(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for path in [*ENVIRONMENTS, *SETTINGS, *LEFT_BEHIND, "resources/environment.py"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["?? .gitignore", "?? resources/environment.py"]
