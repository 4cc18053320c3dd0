"""What a developer has beside the repository does not reach git, or the processes of the tests."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.processes import CLEAN, ROOT

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


def test_settings_of_a_shell_do_not_reach_the_processes_of_the_tests():
    names = ["http_proxy", "HTTPS_PROXY", "all_proxy", "NO_PROXY"]
    names += ["MONGODB_URI", "PORT", "UWSGI_PORT", "FLASK_DEBUG"]
    code = "import json; from support.processes import CLEAN; print(json.dumps(sorted(CLEAN)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=CLEAN
        | dict.fromkeys(names, "http://127.0.0.1:9")
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert "PATH" in found
    assert [name for name in names if name in found] == []
