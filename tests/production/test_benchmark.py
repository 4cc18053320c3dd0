"""The benchmark measures what it says, and leaves nothing behind."""

import re
import shutil
import subprocess
import sys

import pytest
from benchmark import load, verify_alone
from support.processes import CLEAN, ROOT

pytestmark = pytest.mark.slow
needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")


@needs_wrk
def test_benchmark_loads_running_instance_and_deletes_its_user(api, alice, database, tmp_path):
    command = [sys.executable, ROOT / "tests/benchmark.py", "--url", api.url]
    command += ["--seconds", "1", "--only", "/todos/", "--chart", tmp_path / "chart.svg"]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\w+ /\S+) +(\d+) +([\d.]+) +([\d.]+) +(\d+)$", done.stdout, re.MULTILINE)
    assert [(name, errors) for name, *_, errors in rows] == [
        ("GET /todos/<id>", "0"),
        ("PUT /todos/<id>", "0"),
    ]
    for _, rate, p50, p99, _ in rows:
        assert int(rate) > 0
        assert 0 < float(p50) <= float(p99)
    # The background, and a bar for each row.
    assert (tmp_path / "chart.svg").read_text().count("<rect") == 1 + len(rows)
    assert [user["username"] for user in database.users.find()] == ["alice"]
    assert database.todos.count_documents({}) == 0


@needs_wrk
def test_benchmark_counts_failed_requests(api):
    result = load(api.url, ("GET", None, [("/todos", None)]), seconds=1)
    assert 0 < result["errors"] == result["requests"]


def test_benchmark_measures_passlib_alone():
    assert verify_alone(seconds=0.2) > 0
