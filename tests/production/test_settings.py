"""The Procfile's server and its settings: what it needs, what it ignores, how it refuses."""

import re
import shlex
import socket
import subprocess
import sys

import pytest
from pymongo import MongoClient
from support.actions import register
from support.clients import User, assert_error
from support.processes import (
    CLEAN,
    ROOT,
    SECRET,
    Server,
    copy_project,
    free_port,
    is_open,
    procfile_command,
    wait_for,
    with_stats,
    workers,
)

FULL_WIDTH_TWO = "\uff12"


def test_procfile_serves_main_flow(mongod, database, start):
    server = start(mongod.uri)
    alice = User(server, "alice")
    todo = alice.add()
    assert server.get("/todos", alice.access).json()["todos"] == [todo]
    changed = server.put(f"/todos/{todo['id']}", alice.access, json={"done": True})
    assert changed.json() == {**todo, "done": True}
    assert server.delete(f"/todos/{todo['id']}", alice.access).status_code == 200
    assert server.post("/logout", alice.access).status_code == 200
    assert_error(server.get("/todos", alice.access), 401, "token_revoked")


@pytest.mark.parametrize(
    ("folder", "path"), [(".", "a ü/copy/uwsgi.ini"), ("a ü/copy/resources", "../uwsgi.ini")]
)
def test_uwsgi_starts_from_any_folder(mongod, database, tmp_path, folder, path):
    copy_project(tmp_path / "a ü/copy")
    server = Server(["uwsgi", path], tmp_path / "log", mongod.uri, cwd=tmp_path / folder)
    try:
        User(server.wait(), "alice").add()
    finally:
        server.kill()


def test_server_starts_and_serves_with_1024_files(mongod, database, tmp_path):
    """The usual limit of a Linux system."""
    command = ["sh", "-c", f"ulimit -n 1024; exec {shlex.join(procfile_command())}"]
    server = Server(command, tmp_path / "log", mongod.uri)
    try:
        User(server.wait(), "alice").add()
    finally:
        server.kill()


# Settings that are wrong.


@pytest.fixture
def refused(tmp_path):
    """Start the server with a setting that is wrong; return its output once it has ended."""
    servers = []

    def refused(command=None, **wrong):
        settings = {"uri": "mongodb://127.0.0.1:1/test", **wrong}
        servers.append(Server(command or procfile_command(), tmp_path / "log", **settings))
        assert servers[-1].process.wait(60) != 0
        # uWSGI prints a setting unchanged.
        output = servers[-1].log.read_text(errors="replace")
        assert "Traceback" not in output and "spawned" not in output and "hunter" not in output
        return output

    yield refused
    for server in servers:
        server.kill()


def assert_one_line(output, name):
    """Assert that one line of the output names the setting."""
    assert len([line for line in output.splitlines() if line.startswith(name)]) == 1, output


@pytest.mark.parametrize(
    "value", [None, "", " " * 40, "x" * 31, "x" * 31 + "\n", b"x" * 32 + b"\xff"], ids=repr
)
def test_bad_secret_ends_start_with_one_line(refused, value):
    assert_one_line(refused(JWT_SECRET_KEY=value), "JWT_SECRET_KEY")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " \r\n",
        "localhost:27017",
        "http://localhost",
        "mongodb://",
        "mongodb://alice:hunter@2/hunter2@localhost/test",
        "mongodb://alice:hunter2@localhost:port/test",
        "mongodb+srv://a,b/test",
        "mongodb://localhost/test?w=majority&w",
        "mongodb://localhost/test?server_api=1",
        "mongodb://localhost/test?driver=x",
        "mongodb://localhost/test?datetime_conversion=datetime_ms",
        # Copied with too much around it.
        '"mongodb://localhost/test"',
        "'mongodb://localhost/test'",
        "<mongodb://localhost/test>",
        "MONGODB_URI=mongodb://localhost/test",
        # These would be other databases.
        "mongodb://localhost/test;",
        "mongodb://localhost/te\rst",
        "mongodb://localhost/te\nst",
        "mongodb://localhost/a%20b",
        "mongodb://localhost/to%64olistapp",
        "mongodb://localhost/te.st",
        "mongodb://localhost/t\u00e9st",
        b"mongodb://localhost/t\xe9st",
        b"mongodb://alice:hunter\xe92@localhost/test",
        f"mongodb://localhost/{'t' * 64}",
        # MongoDB's own databases.
        "mongodb://localhost/admin",
        "mongodb://localhost/Local?w=1",
        "mongodb://localhost/config",
        "mongodb://localhost/%61dmin",
    ],
    ids=repr,
)
def test_bad_uri_ends_start_with_one_line(refused, value):
    assert_one_line(refused(uri=value), "MONGODB_URI")


@pytest.mark.parametrize("limit", ["", "ulimit -n 1024; "], ids=["", "1024 files"])
@pytest.mark.parametrize(
    "value",
    ["", "0", "two", "2.5", " 2", "2\n", '"2"', "1000", "100", FULL_WIDTH_TWO, b"\xff"],
    ids=repr,
)
def test_bad_concurrency_ends_start_with_one_line(refused, value, limit):
    """uWSGI would run out of files before it loads the app, where the system allows only 1,024."""
    command = ["sh", "-c", f"{limit}exec {shlex.join(procfile_command())}"]
    assert_one_line(refused(command=command, WEB_CONCURRENCY=value), "WEB_CONCURRENCY")


# uWSGI binds the port before it loads the app, and takes any of these: of "5000;" it reads the
# digits, and without digits it takes a free port. Then the app is loaded, and ends the start.
@pytest.mark.parametrize(
    "value",
    ["", "0", "five", " 5000", "5000\r", "5000;", '"5000"', "65536", FULL_WIDTH_TWO * 4, b"\xff"],
)
def test_bad_port_ends_start_with_one_line(refused, value):
    assert_one_line(refused(PORT=value), "PORT")


def test_negative_concurrency_ends_start_with_line_of_uwsgi(refused):
    output = refused(WEB_CONCURRENCY="-1")
    assert output.splitlines()[-1] == 'invalid value for option "processes": must be > 0'


def test_port_in_use_ends_start_with_line_of_uwsgi(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        output = refused(PORT=str(other.getsockname()[1]))
    assert output.count("probably another instance of uWSGI is running on the same address") == 1


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----"
NEEDS_UWSGI = "uWSGI loads run.py: start it with `uwsgi uwsgi.ini`. Without it: `python app.py`"


@pytest.mark.parametrize(
    ("name", "value", "begin"),
    [
        ("PORT", "5000", NEEDS_UWSGI),
        ("PORT", "five", "PORT must be "),
        ("JWT_SECRET_KEY", "short", "JWT_SECRET_KEY must be set, to at least 32 bytes"),
        ("JWT_SECRET_KEY", b"x" * 40 + b"\xff", "JWT_SECRET_KEY must be UTF-8"),
        ("JWT_SECRET_KEY", "ssh-rsa " + "A" * 40, "JWT_SECRET_KEY must be random"),
        ("JWT_SECRET_KEY", PUBLIC_KEY, "JWT_SECRET_KEY must be random"),
        ("MONGODB_URI", "", "MONGODB_URI must be set"),
        ("MONGODB_URI", "mongodb://alice:hunter@2@localhost", "MONGODB_URI is not "),
        ("MONGODB_URI", "mongodb://localhost/admin", "MONGODB_URI must not name"),
        ("MONGODB_URI", "mongodb://localhost/%61dmin", "MONGODB_URI must name"),
        ("MONGODB_URI", b"mongodb://localhost/\xe9", "MONGODB_URI must be UTF-8"),
    ],
)
def test_python_run_py_ends_with_one_line(name, value, begin):
    settings = {"MONGODB_URI": "mongodb://localhost/test", "JWT_SECRET_KEY": SECRET, name: value}
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=ROOT, env=CLEAN | settings, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(begin) and done.stderr.count("\n") == 1
    assert "hunter" not in done.stderr


# Settings that are right.


@pytest.mark.parametrize(("before", "after"), [(" ", " "), ("\n", "\r\n"), ("\t", "\r")], ids=repr)
def test_white_space_around_settings_is_ignored(mongod, database, start, before, after):
    server = start(f"{before}{mongod.uri}{after}", JWT_SECRET_KEY=f"{before}{SECRET}{after}")
    alice = User(server, "alice")
    assert database.users.count_documents({"username": "alice"}) == 1
    # A dyno with the same settings, but without white space, accepts the token.
    assert start(mongod.uri).get("/todos", alice.access).status_code == 200


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "/",
        "?appName=my/app",
        "/?appName=my/app",
        "/?w=0",
        "/?w=1&journal=false&readPreference=secondary&retryWrites=false",
    ],
)
def test_uri_without_database_name_means_todolistapp(mongod, start, ending):
    server = start(f"mongodb://127.0.0.1:{mongod.port}{ending}")
    name = f"user{free_port()}"
    assert register(server, name).status_code == 201
    with MongoClient(mongod.uri) as client:
        assert client.todolistapp.users.count_documents({"username": name}) == 1


@pytest.mark.parametrize(("setting", "count"), [(None, 2), ("1", 1), ("4", 4)])
def test_web_concurrency_is_number_of_workers(mongod, start, setting, count):
    server = with_stats(start, mongod.uri, WEB_CONCURRENCY=setting)
    wait_for(lambda: server.log.read_text().count("spawned uWSGI worker") == count)
    assert len(workers(server)) == count


def test_port_is_5000_by_default(mongod, start):
    if is_open(5000):
        pytest.skip("port 5000 is in use on this machine")
    server = start(mongod.uri, port=5000, PORT=None)
    assert_error(server.get("/todos"), 401, "authorization_required")


def test_server_starts_without_warnings(mongod, database, start):
    server = start(mongod.uri)
    User(server, "alice")
    suspicious = re.compile("warn|error|!!!", re.IGNORECASE)
    lines = [line for line in server.log.read_text().splitlines() if suspicious.search(line)]
    # The tests can run as root. A dyno does not.
    assert [line for line in lines if "running uWSGI as root" not in line] == []


def test_every_setting_of_uwsgi_has_comment():
    blocks = (ROOT / "uwsgi.ini").read_text().partition("[uwsgi]\n")[2].split("\n\n")
    for block in blocks:
        assert block.lstrip().startswith("#"), block
