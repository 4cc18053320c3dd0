"""What a developer has beside the repository does not reach git, or the processes of the tests."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support import processes
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


def test_tests_copy_only_the_project_and_can_change_the_copy(monkeypatch, tmp_path):
    checkout = tmp_path / "checkout"
    for path in [*ENVIRONMENTS, *SETTINGS, *LEFT_BEHIND, "resources/environment.py", "app.py"]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).touch()
    for path in [*checkout.rglob("*"), checkout]:
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(processes, "ROOT", checkout)
    copy = processes.copy_project(tmp_path / "copy")
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert found == {"app.py", "resources", "resources/environment.py"}
    assert all(path.stat().st_mode & 0o200 for path in [copy, *copy.rglob("*")])


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
