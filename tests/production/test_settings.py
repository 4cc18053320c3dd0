"""The Procfile's server and its settings: what it needs, what it ignores, how it refuses."""

import re
import shlex
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
    copy_project,
    free_port,
    is_open,
    procfile_command,
    wait_for,
    with_stats,
    workers,
)

FULL_WIDTH_TWO = "\uff12"


@pytest.mark.parametrize(
    ("folder", "path"), [(".", "a ü/copy/uwsgi.ini"), ("a ü/copy/resources", "../uwsgi.ini")]
)
def test_uwsgi_starts_from_any_folder(mongod, database, start, tmp_path, folder, path):
    copy_project(tmp_path / "a ü/copy")
    server = start(mongod.uri, command=["uwsgi", path], cwd=tmp_path / folder)
    User(server, "alice").add()


# The usual limit of a Linux system.
WITH_1024_FILES = ["sh", "-c", f"ulimit -n 1024; exec {shlex.join(procfile_command())}"]


def test_server_starts_and_serves_with_1024_files(mongod, database, start):
    User(start(mongod.uri, command=WITH_1024_FILES), "alice").add()


# Settings that are wrong.


@pytest.fixture
def refused(start):
    """Start the server with a setting that is wrong; return its output once it has ended."""

    def refused(uri="mongodb://127.0.0.1:1/test", **wrong):
        server = start(uri, wait=False, measured=True, **wrong)
        assert server.process.wait(60) != 0
        # uWSGI prints a setting unchanged.
        output = server.log.read_text(errors="replace")
        assert "Traceback" not in output and "spawned" not in output and "hunter" not in output
        return output

    return refused


def assert_one_line(output, name):
    """Assert that one line of the output names the setting."""
    assert len([line for line in output.splitlines() if line.startswith(name)]) == 1, output


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----"
SSH_KEY = "ssh-rsa " + "A" * 40


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " " * 40,
        "x" * 31,
        "x" * 31 + "\n",
        b"x" * 32 + b"\xff",
        # Other people know a public key.
        PUBLIC_KEY,
        SSH_KEY,
    ],
    ids=repr,
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


@pytest.mark.parametrize(
    "value",
    ["", "0", "two", "2.5", " 2", "2\n", '"2"', "1000", "100", FULL_WIDTH_TWO, b"\xff"],
    ids=repr,
)
def test_bad_concurrency_ends_start_with_one_line(refused, value):
    """With 100 workers, uWSGI would run out of files before it loads the app."""
    output = refused(command=WITH_1024_FILES, WEB_CONCURRENCY=value)
    assert_one_line(output, "WEB_CONCURRENCY")


# uWSGI binds the port before it loads the app, and takes any of these: of "5000;" it reads the
# digits, and without digits it takes a free port. Then the app is loaded, and ends the start.
@pytest.mark.parametrize(
    "value",
    ["", "0", "five", " 5000", "5000\r", "5000;", '"5000"', "65536", FULL_WIDTH_TWO * 4, b"\xff"],
)
def test_bad_port_ends_start_with_one_line(refused, value):
    assert_one_line(refused(PORT=value), "PORT")


def test_python_run_py_ends_with_the_command_that_starts_it():
    settings = {"MONGODB_URI": "mongodb://localhost/test", "JWT_SECRET_KEY": SECRET}
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=ROOT, env=CLEAN | settings, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "uwsgi uwsgi.ini" in done.stderr and done.stderr.count("\n") == 1


# Settings that are right.


def test_secret_of_32_bytes_is_accepted(mongod, database, start):
    server = start(mongod.uri, JWT_SECRET_KEY="\u00e9" * 16)
    User(server, "alice").add()


@pytest.mark.parametrize(("before", "after"), [(" ", " "), ("\n", "\r\n"), ("\t", "\r")], ids=repr)
def test_white_space_around_settings_is_ignored(mongod, database, start, before, after):
    server = start(f"{before}{mongod.uri}{after}", JWT_SECRET_KEY=f"{before}{SECRET}{after}")
    alice = User(server, "alice")
    assert database.users.count_documents({"username": "alice"}) == 1
    # A dyno with the same settings, but without white space, accepts the token.
    assert start(mongod.uri).get("/todos", alice.access).status_code == 200


@pytest.mark.parametrize(
    "ending",
    ["", "?appName=my/app", "/?w=1&journal=false&readPreference=secondary&retryWrites=false"],
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
