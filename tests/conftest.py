"""What the tests share: a MongoDB and a server of their own, both real, and clients that talk to it through HTTP."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
import requests
from honcho.environ import parse_procfile
from pymongo import MongoClient

import db

ROOT = Path(__file__).parent.parent
SECRET = "a secret for the tests, of at least 32 bytes"
PASSWORD = "correct horse battery staple"
# What a developer has set must not reach the servers under test; what is installed beside this Python must.
for setting in ("MONGODB_URI", "JWT_SECRET_KEY", "PORT", "WEB_CONCURRENCY"):
    os.environ.pop(setting, None)
CLEAN = os.environ | {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes many seconds; runs only with --all")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes many seconds; run with --all"))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, seconds=15):
    """Ask until the condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still not true after {seconds} s: {condition}"
        time.sleep(0.02)  # Between two questions, so that asking does not take all of the processor.
    return result


class Mongod:
    """A mongod with a folder and a port of its own, which can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"mongodb://127.0.0.1:{self.port}/test"
        self.start()

    def start(self):
        self.process = db.start_mongod(self.folder, self.port)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Server:
    """The API as a process of its own, reached through HTTP. `log` is the path of what it prints."""

    def __init__(self, command, log, uri, port=None, cwd=ROOT, **env):
        self.port = port or free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        self.session = requests.Session()
        self.session.trust_env = False  # Neither proxies nor netrc files: half the time of a request.
        settings = {"PORT": str(self.port), "MONGODB_URI": uri, "JWT_SECRET_KEY": SECRET} | env
        environment = CLEAN | {name: value for name, value in settings.items() if value is not None}
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self):
        """Wait for the first answer."""
        wait_for(self.answers)
        return self

    def answers(self):
        assert self.process.poll() is None, f"the server has ended:\n{self.log.read_text()}"
        with contextlib.suppress(requests.ConnectionError):
            self.get("/")
            return True
        return False

    def stop(self):
        """End it as Heroku does."""
        self.process.terminate()
        self.process.wait(15)

    def kill(self):
        """Make sure that nothing of it is left."""
        if os.name == "nt":
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    # One method for each verb, so that a test reads `api.get("/todos", token)`.

    def request(self, method, path, token=None, **options):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, timeout=30, **options)

    def get(self, path, token=None, **options):
        return self.request("GET", path, token, **options)

    def post(self, path, token=None, **options):
        return self.request("POST", path, token, **options)

    def put(self, path, token=None, **options):
        return self.request("PUT", path, token, **options)

    def delete(self, path, token=None, **options):
        return self.request("DELETE", path, token, **options)


def procfile_command():
    """The line of the Procfile, or the developer's server where there is no uWSGI, as on Windows."""
    if not shutil.which("uwsgi", path=CLEAN["PATH"]):
        return [sys.executable, "app.py"]
    return shlex.split(parse_procfile((ROOT / "Procfile").read_text()).processes["web"])


class User:
    """A registered user with a session."""

    def __init__(self, api, name, password=PASSWORD):
        self.api, self.name, self.password = api, name, password
        assert api.post("/register", json={"username": name, "password": password}).status_code == 201
        self.access, self.refresh = self.login()
        self.id = api.get(f"/user/{name}", self.access).json()["id"]

    def login(self):
        """Start another session; return its access and its refresh token."""
        response = self.api.post("/login", json={"username": self.name, "password": self.password})
        assert response.status_code == 200, response.text
        return response.json()["access_token"], response.json()["refresh_token"]

    def add(self, name="milk", **fields):
        """Add a todo; return it."""
        response = self.api.post("/todos", self.access, json={"name": name, **fields})
        assert response.status_code == 201, response.text
        return response.json()


@pytest.fixture(scope="session")
def mongod(tmp_path_factory):
    mongod = Mongod(tmp_path_factory.mktemp("mongod"))
    yield mongod
    mongod.kill()


@pytest.fixture(scope="session")
def server(mongod, tmp_path_factory):
    """One production server for all tests that need nothing special of it."""
    server = Server(procfile_command(), tmp_path_factory.mktemp("server") / "log", mongod.uri)
    yield server.wait()
    server.kill()


@pytest.fixture
def database(mongod):
    """The server's database, empty."""
    with MongoClient(mongod.uri) as client:
        database = client.get_default_database()
        for name in ("users", "todos", "blacklist"):
            database[name].delete_many({})  # Not dropped: that would take the indexes along.
        yield database


@pytest.fixture
def api(server, database):
    """The server, with nothing stored."""
    return server


@pytest.fixture
def alice(api):
    return User(api, "alice")


@pytest.fixture
def bob(api):
    return User(api, "bob")


def claims(token):
    """What a token of ours says."""
    return jwt.decode(token, SECRET, algorithms=["HS256"])


def assert_error(response, status, code, message=None):
    """The contract's error body, and nothing beside it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.json().keys() == {"message", "error"}
    assert response.json()["error"] == code
    if message is not None:
        assert response.json()["message"] == message
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
