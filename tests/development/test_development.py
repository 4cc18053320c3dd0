"""`python app.py`, the development server, and the MongoDB that it finds or starts."""

import contextlib
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from support.clients import PASSWORD, User, assert_error, new_address
from support.processes import CLEAN, free_port, is_open, wait_for
from support.proxy import Proxy, version

from resources import local_mongodb

posix = pytest.mark.skipif(os.name == "nt", reason="shell scripts and signals of Linux and macOS")


def run_app(copy, prefix=(), **settings):
    """Run `python app.py`, which is expected to end, and return its exit code and its errors."""
    done = subprocess.run(
        [*prefix, sys.executable, "app.py"],
        cwd=copy,
        env=CLEAN | settings,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr


class SilentHandler(socketserver.BaseRequestHandler):
    """Reads a request, and answers nothing."""

    def handle(self):
        while self.request.recv(1024):
            pass


class OtherServer(socketserver.ThreadingTCPServer):
    """A server other than MongoDB."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, address, handler):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)


def end(server, number=signal.SIGTERM):
    server.process.send_signal(number)
    server.process.wait(60)


# Without MONGODB_URI: its own MongoDB.


@posix
def test_app_starts_a_mongodb_and_ends_it(no_mongodb, start_app, copy):
    server = start_app().wait()
    User(server, "alice").add()
    folder = copy / ".mongodb"
    line = f"Started a MongoDB on 127.0.0.1:27017, data and log in {folder}"
    assert line in server.log.read_text()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000_000
    end(server)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))


@posix
def test_sigterm_while_the_mongodb_starts_ends_both(no_mongodb, start_app):
    server = start_app()
    wait_for(lambda: is_open(27017))
    end(server)
    wait_for(lambda: not is_open(27017))


@posix
def test_ctrl_c_ends_the_mongodb_and_the_next_start_finds_its_data(no_mongodb, start_app):
    # A background process inherits that this signal is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = start_app().wait()
    todo = User(server, "alice").add()
    # A terminal sends it to the whole group of processes.
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(60)
    wait_for(lambda: not is_open(27017) and not is_open(server.port))
    server = start_app().wait()
    login = server.post("/login", data={"username": "alice", "password": PASSWORD}).json()
    assert server.get("/todos", login["access_token"]).json()["todos"] == [todo]


@posix
@pytest.mark.slow
def test_reload_keeps_the_mongodb_and_the_tokens(no_mongodb, start_app, copy):
    server = start_app().wait()
    alice = User(server, "alice")
    (copy / "blacklist.py").touch()
    wait_for(lambda: server.log.read_text().count("Debugger is active!") == 2)
    wait_for(server.answers)
    assert server.get("/todos", alice.access).status_code == 200
    assert server.log.read_text().count("Started a MongoDB") == 1


@posix
def test_app_uses_a_mongodb_that_is_running_and_does_not_end_it(no_mongodb, start_app, copy):
    running = local_mongodb.start_mongod(copy / ".mongodb", 27017)
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
@pytest.mark.parametrize("handler", [BaseHTTPRequestHandler, SilentHandler])
def test_port_27017_in_use_by_another_program_ends_app_with_the_reason(
    no_mongodb, start_app, handler
):
    with OtherServer(("127.0.0.1", 27017), handler) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            server = start_app()
            assert server.process.wait(30) == 1
        finally:
            other.shutdown()
    assert server.log.read_text() == (
        "Port 27017 is in use by a program other than MongoDB, or by a MongoDB that requires TLS."
        " End the program, or set MONGODB_URI: with TLS to 'mongodb://localhost:27017/?tls=true'\n"
    )


@posix
@pytest.mark.slow
def test_port_27017_of_ipv6_in_use_by_another_program_does_not_matter(no_mongodb, start_app):
    try:
        other = OtherServer(("::1", 27017), SilentHandler)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with other:
        threading.Thread(target=other.serve_forever).start()
        try:
            User(start_app().wait(), "alice").add()
        finally:
            other.shutdown()


@posix
def test_old_mongodb_on_27017_is_used_with_one_warning(no_mongodb, mongod, start_app):
    with contextlib.closing(Proxy(mongod, {version(17): version(8)}, port=27017)):
        server = start_app().wait()
        log = server.log.read_text()
        assert re.findall(r"^ \* MongoDB: .* 4\.4 or newer", log, re.MULTILINE)
        assert "Started a MongoDB" not in log


# Scripts in place of mongod, each with the end of what the app says.
FATAL = '{"s":"F",  "c":"CONTROL", "msg":"Wrong mongod version"}'
BROKEN = {
    "missing library": (
        "yes | head -c 200000 >&2; echo 'libcurl.so.4: cannot open' >&2; exit 127",
        "libcurl.so.4: cannot open\nmongod ended with exit code 127. All that it has printed is",
    ),
    "only on stdout": (
        "echo 'Failed to open /data'; exit 1",
        "Failed to open /data\nmongod ended with exit code 1. All that it has printed is",
    ),
    "data of another version": (
        f'echo \'{FATAL}\'; echo \'{{"s":"I", "msg":"Now exiting"}}\'; exit 62',
        f"{FATAL}\nmongod ended with exit code 62: another version of MongoDB has written the data."
        " Install that version, or move the folder away",
    ),
    "no AVX": (
        "kill -ILL $$",
        "mongod was ended by the signal SIGILL: this processor cannot run it. MongoDB 5.0 and newer"
        " need a processor with AVX. Set MONGODB_URI",
    ),
    "full memory": (
        "kill -KILL $$",
        "mongod was ended by the signal SIGKILL: another program has killed it, or Linux itself",
    ),
    "crash": ("kill -SEGV $$", "mongod was ended by the signal SIGSEGV. All that it has printed"),
}


@pytest.fixture
def start_with(no_mongodb, start_app, tmp_path):
    """Start the app with a file in place of mongod; return what it prints until it ends."""

    def start_with(content):
        mongod = tmp_path / "bin" / "mongod"
        mongod.parent.mkdir()
        mongod.write_text(content)
        mongod.chmod(0o755)
        server = start_app(PATH=f"{mongod.parent}:{CLEAN['PATH']}")
        assert server.process.wait(30) == 1
        log = server.log.read_text()
        assert "Traceback" not in log
        return log

    return start_with


@posix
@pytest.mark.parametrize(("script", "reason"), BROKEN.values(), ids=BROKEN)
def test_mongod_that_ends_ends_app_with_the_reason(start_with, script, reason):
    assert reason in start_with(f"#!/bin/sh\n{script}\n")


@posix
def test_mongod_of_another_processor_ends_app_with_the_reason(start_with):
    assert start_with("no script, and no program").startswith("mongod cannot run: ")


@posix
@pytest.mark.slow
def test_folder_in_use_by_another_mongod_ends_app_with_the_reason(no_mongodb, start_app, copy):
    other = local_mongodb.start_mongod(copy / ".mongodb", free_port())
    try:
        server = start_app()
        assert server.process.wait(30) == 1
    finally:
        other.kill()
        other.wait()
    log = server.log.read_text()
    assert "Another mongod instance is already running" in log
    assert "mongod ended with exit code 100. All that it has printed" in log


# Where mongod is.


def test_missing_mongod_ends_app_with_ways_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(SystemExit) as stopped:
        local_mongodb.start_mongod(tmp_path, free_port())
    for way in ("pip install", "MONGODB_URI"):
        assert way in str(stopped.value)


@posix
def test_mongod_is_found_wherever_python_finds_its_package(monkeypatch, tmp_path):
    """`pip install --user`, uv, conda and Debian each have folders of their own."""
    monkeypatch.setenv("PATH", "")
    # The package has this folder, and other packages have theirs beside it.
    for folder, files in {"first": ["fiftyone/brain"], "second": ["fiftyone/db/bin"]}.items():
        (tmp_path / folder / files[0]).mkdir(parents=True)
    mongod = tmp_path / "second" / "fiftyone" / "db" / "bin" / "mongod"
    mongod.touch(0o755)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert local_mongodb.find_mongod() == str(mongod)


# A folder that cannot be written to.


def test_file_in_place_of_the_folder_ends_app_with_one_line(no_mongodb, copy):
    (copy / ".mongodb").touch()
    assert_cannot_write(*run_app(copy))


@posix
@pytest.mark.parametrize("protected", [".", ".mongodb", ".mongodb/data"])
def test_folder_of_another_user_ends_app_with_one_line(no_mongodb, copy, protected):
    (copy / ".mongodb" / "data").mkdir(parents=True)
    if protected == ".":
        shutil.rmtree(copy / ".mongodb")
    (copy / protected).chmod(0o555)
    prefix = []
    if os.getuid() == 0:
        # Root can write anywhere. This takes the right from the process.
        if not shutil.which("setpriv"):
            pytest.skip("needs another user than root, or setpriv")
        prefix = ["setpriv", "--bounding-set=-dac_override"]
    assert_cannot_write(*run_app(copy, prefix))


def assert_cannot_write(code, errors):
    assert code == 1
    assert errors.startswith("Cannot write to ")
    assert "Change the owner or the rights of the folder, or set MONGODB_URI" in errors
    assert errors.count("\n") == 1


# Settings.


def test_app_uses_mongodb_uri_if_it_is_set(mongod, database, start_app, copy):
    # Only uWSGI reads WEB_CONCURRENCY.
    server = start_app(mongod.uri, WEB_CONCURRENCY="").wait()
    User(server, "alice")
    assert database.users.count_documents({}) == 1
    assert not (copy / ".mongodb").exists()


@pytest.mark.slow
def test_each_start_has_a_new_secret(mongod, api, start_app):
    first = start_app(mongod.uri).wait()
    alice = User(first, "alice")
    second = start_app(mongod.uri).wait()
    for server in (second, api):
        assert_error(server.get("/todos", alice.access), 401, "invalid_token")
    assert first.get("/todos", alice.access).status_code == 200


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
