"""Production as Heroku runs it: the line of the Procfile, several workers, and everything that can go wrong."""

import os
import shutil
import subprocess

import pytest
from pymongo import MongoClient
from conftest import CLEAN, PASSWORD, ROOT, SECRET, Server, User, free_port, procfile_command, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("uwsgi", path=CLEAN["PATH"]), reason="there is no uWSGI here")


@pytest.fixture
def start(tmp_path):
    """Start any number of production servers; they end with the test."""
    servers = []

    def start(uri, wait=True, **env):
        servers.append(Server(procfile_command(), tmp_path / f"log{len(servers)}", uri, **env))
        return servers[-1].wait() if wait else servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


def test_serves_the_main_flow(mongod, database, start):
    server = start(mongod.uri)
    alice = User(server, "alice")
    todo = alice.add()
    assert server.get("/todos", alice.access).json()["todos"] == [todo]
    assert server.put(f"/todos/{todo['id']}", alice.access, json={"done": True}).json() == {**todo, "done": True}
    assert server.delete(f"/todos/{todo['id']}", alice.access).status_code == 200
    assert server.post("/logout", alice.access).status_code == 200
    assert server.get("/todos", alice.access).status_code == 401


GOOD = {"JWT_SECRET_KEY": SECRET, "MONGODB_URI": "mongodb://127.0.0.1:1/test"}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"JWT_SECRET_KEY": None}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": ""}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": "x" * 31}, "JWT_SECRET_KEY"),
        ({"MONGODB_URI": None}, "MONGODB_URI"),
        ({"MONGODB_URI": ""}, "MONGODB_URI"),
        ({"MONGODB_URI": "localhost:27017"}, "MONGODB_URI"),
        ({"MONGODB_URI": "http://localhost"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://alice:hunter@2/hunter2@localhost/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://alice:hunter2@localhost:port/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://localhost/a%20b"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb+srv://a,b/test"}, "MONGODB_URI"),
        ({"MONGODB_URI": "mongodb://localhost/test?w=majority&w"}, "MONGODB_URI"),
        ({"WEB_CONCURRENCY": ""}, "WEB_CONCURRENCY"),
        ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY"),
        ({"WEB_CONCURRENCY": "-1"}, "processes"),  # uWSGI's own words.
        ({"WEB_CONCURRENCY": "two"}, "WEB_CONCURRENCY"),
        ({"PORT": "five"}, "PORT"),
        ({"PORT": ""}, "PORT"),
    ],
)
def test_bad_settings_end_the_process_with_one_line_that_names_them(wrong, name):
    settings = {"PORT": str(free_port())} | GOOD | wrong
    environment = CLEAN | {key: value for key, value in settings.items() if value is not None}
    done = subprocess.run(procfile_command(), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    lines = [line for line in output.splitlines() if name in line]
    assert len(lines) == 1, output
    assert "Traceback" not in output and "spawned" not in output and "hunter" not in output


@pytest.mark.parametrize("ending", ["", "/", "/?w=0", "/?w=1&journal=false&readPreference=secondary&retryWrites=false"])
def test_uri_without_a_database_name_means_todolistapp(mongod, start, ending):
    server = start(f"mongodb://127.0.0.1:{mongod.port}{ending}")
    name = f"user{free_port()}"
    User(server, name)
    with MongoClient(mongod.uri) as client:
        assert client.todolistapp.users.count_documents({"username": name}) == 1


@pytest.mark.parametrize(("setting", "workers"), [(None, 2), ("1", 1), ("4", 4)])
def test_web_concurrency_is_followed(mongod, start, setting, workers):
    server = start(mongod.uri, WEB_CONCURRENCY=setting)
    wait_for(lambda: server.log.read_text().count("spawned uWSGI worker") == workers)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    assert os.name != "posix" or len(children.stdout.split()) in (workers, 0)


def test_port_is_5000_where_it_is_not_set():
    assert "http-socket = :5000" in (ROOT / "uwsgi.ini").read_text()


def test_password_is_not_in_what_is_stored_or_logged(mongod, database, start):
    server = start(mongod.uri)
    User(server, "alice")
    assert PASSWORD not in str(list(database.users.find())) + server.log.read_text()
