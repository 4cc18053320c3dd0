"""The benchmark measures what it says, and leaves nothing behind."""

import re
import shutil
import subprocess
import sys

import pytest
from benchmark import load, verify_alone
from helpers import CLEAN, ROOT

pytestmark = pytest.mark.slow
needs_tools = pytest.mark.skipif(
    not (shutil.which("wrk") and shutil.which("uwsgi", path=CLEAN["PATH"])),
    reason="needs wrk and uWSGI",
)


@needs_tools
def test_benchmark_loads_a_running_instance_and_deletes_its_user(api, alice, database, tmp_path):
    command = [
        sys.executable,
        ROOT / "tests/benchmark.py",
        "--url",
        api.url,
        "--seconds",
        "1",
        "--only",
        "/todos/",
    ]
    command += ["--chart", tmp_path / "chart.svg"]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\w+ /\S+) +(\d+) +([\d.]+) +([\d.]+) +(\d+)$", done.stdout, re.MULTILINE)
    assert [(name, errors) for name, *_, errors in rows] == [
        ("GET /todos/<id>", "0"),
        ("PUT /todos/<id>", "0"),
    ]
    assert all(int(rate) > 0 and 0 < float(p50) <= float(p99) for _, rate, p50, p99, _ in rows)
    assert (tmp_path / "chart.svg").read_text().count("<rect") == 1 + len(rows)
    assert [user["username"] for user in database.users.find()] == ["alice"]
    assert database.todos.count_documents({}) == 0


@needs_tools
def test_benchmark_counts_what_fails(api):
    result = load(api.url, ("GET", None, [("/todos", None)]), seconds=1)
    assert 0 < result["errors"] == result["requests"]


def test_benchmark_measures_passlib_alone():
    assert verify_alone(seconds=0.2) > 0
