"""The processes under test: a real mongod and a real server, which a test can kill and start."""

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import requests
from honcho.environ import parse_procfile

from resources.local_mongodb import start_mongod

ROOT = Path(__file__).parent.parent.parent
SECRET = "a secret for the tests, of at least 32 bytes"
# The settings of a developer's shell must not reach the processes under test: those of the API, of
# uWSGI and of Flask, and the proxies, such as http_proxy, which cannot reach a server on this
# machine. The programs that are installed beside this Python must reach them.
for name in list(os.environ):
    if re.fullmatch(
        "MONGODB_URI|JWT_SECRET_KEY|PORT|WEB_CONCURRENCY|(UWSGI|FLASK|WERKZEUG)_.*|.*_PROXY",
        name.upper(),
    ):
        del os.environ[name]
CLEAN = os.environ | {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
# For a process that is not measured: one that runs a changed copy of the project, or one whose
# response times a test judges, because measuring makes each line slower.
UNMEASURED = {name: value for name, value in CLEAN.items() if name != "COVERAGE_PROCESS_CONFIG"}


# In random order, so that two runs of the tests on one machine rarely choose the same port. Below
# 32768, because Linux gives the ports above to outgoing connections: one of those could take a port
# after it was found to be free and before the server listens on it. Not 27017, MongoDB's own.
_range = range(20_000, 27_000)
# The processes of pytest-xdist, such as gw0, share them out: they choose at the same time.
if "PYTEST_XDIST_WORKER" in os.environ:
    _range = _range[int(os.environ["PYTEST_XDIST_WORKER"][2:]) % 7 :: 7]
_ports = itertools.cycle(random.sample(_range, len(_range)))


def free_port():
    """Return a port of this machine that no program uses."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def is_open(port):
    """Return whether a program listens on this port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds=60):
    """Call `condition` until its result is true, and return the result."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still not true after {seconds} s: {condition}"
        # Without a pause, the calls would take all of the processor time.
        time.sleep(0.02)
    return result


class Mongod:
    """A mongod with its own folder and port, which can be killed and started again."""

    def __init__(self, folder, options=()):
        self.folder, self.port, self.options = folder, free_port(), options
        self.uri = f"mongodb://127.0.0.1:{self.port}/test"
        self.start()

    def start(self):
        """Start it, and wait until it accepts connections."""
        self.process = start_mongod(self.folder, self.port, self.options)

    def kill(self):
        """Kill it, as a power cut would."""
        self.process.kill()
        self.process.wait()


def empty(database):
    """Delete all documents of a database, and keep its collections with their indexes."""
    for name in database.list_collection_names():
        database[name].delete_many({})


def stored(database):
    """Return all users and todos of a database."""
    return [list(database[name].find()) for name in ("users", "todos")]


def profiled(database, run):
    """Call `run`, and return what MongoDB's profiler has recorded of each of its operations."""
    database.command("profile", 2)
    try:
        run()
        return list(database["system.profile"].find())
    finally:
        database.command("profile", 0)
        database.drop_collection("system.profile")


class Client:
    """A client of the API. `url` and `session`, of the package requests, say where the API is."""

    # One method for each verb, so that a test reads `api.get("/todos", token)`.

    def request(self, method, path, token=None, **options):
        """Send a request, with `token` as its bearer token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, timeout=60, **options)

    def get(self, path, token=None, **options):
        return self.request("GET", path, token, **options)

    def post(self, path, token=None, **options):
        return self.request("POST", path, token, **options)

    def put(self, path, token=None, **options):
        return self.request("PUT", path, token, **options)

    def delete(self, path, token=None, **options):
        return self.request("DELETE", path, token, **options)


class Server(Client):
    """The API in its own process group, reached through HTTP. Its output goes to the file `log`.

    The group consists of uWSGI's master and its workers.
    """

    def __init__(self, command, log, uri, port=None, cwd=ROOT, measured=True, **env):
        self.port = port or free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        # Each server has its own session, so no request goes to a connection of another server.
        self.session = requests.Session()
        # Without proxies and netrc files. Looking for them takes half the time of a request.
        self.session.trust_env = False
        settings = {"PORT": str(self.port), "MONGODB_URI": uri, "JWT_SECRET_KEY": SECRET} | env
        environment = dict(CLEAN if measured else UNMEASURED)
        if measured and CLEAN != UNMEASURED and command[0] == "uwsgi":
            command, environment = measuring_greenlets(command)
        environment |= {name: value for name, value in settings.items() if value is not None}
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self):
        """Wait for the first response, and return the server."""
        wait_for(self.answers)
        return self

    def answers(self):
        """Return whether the server responds. Fails if it has ended."""
        assert self.process.poll() is None, f"the server has ended:\n{self.log.read_text()}"
        with contextlib.suppress(requests.ConnectionError):
            self.get("/")
            return True
        return False

    def signal_group(self, number=signal.SIGTERM):
        """Send a signal to every process of the group, as Heroku does with SIGTERM."""
        if os.name == "nt":
            self.process.send_signal(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stop(self):
        """End it as Heroku does, and wait until every process of the group has ended."""
        self.signal_group()
        self.process.wait(60)
        if os.name != "nt":
            wait_for(lambda: not self.processes())
        self.session.close()

    def kill(self):
        """Make sure that no process of the group is left."""
        self.signal_group(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        self.process.wait()
        self.session.close()

    def processes(self):
        """Return the processes of the group that have not ended."""
        found = []
        for process in psutil.process_iter(["status"]):
            # A process can end between the listing and the question.
            with contextlib.suppress(ProcessLookupError):
                ended = process.info["status"] == psutil.STATUS_ZOMBIE
                if os.getpgid(process.pid) == self.process.pid and not ended:
                    found.append(process)
        return found


def copy_project(folder):
    """Return a copy of the project, in which files can be changed and a server can store data.

    Without what a developer has beside the repository: environments, caches and a MongoDB's data.
    """
    others = [".git", "*env", ".env.*", ".mongodb", ".hypothesis", ".*_cache", "__pycache__"]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*others))
    for path in [folder, *folder.rglob("*")]:
        # If the checkout is read-only, so is the copy at first.
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return folder


def procfile_command():
    """Return the command of the Procfile. On Windows, where uWSGI does not run: `app.py`."""
    if not shutil.which("uwsgi", path=CLEAN["PATH"]):
        return [sys.executable, "app.py"]
    return shlex.split(parse_procfile((ROOT / "Procfile").read_text()).processes["web"])


def measuring_greenlets(command):
    """Return the command and the environment of a uWSGI whose coverage is measured.

    Only there, coverage tells greenlets apart. In a process whose threads end, such as the one of
    the tests, the package greenlet can then let Python run in circles.
    """
    environment = UNMEASURED | {
        "COVERAGE_PROCESS_START": str(ROOT / ".coveragerc"),
        "COVERAGE_CONCURRENCY": "thread, greenlet",
    }
    return [*command, "--import", str(ROOT / "tests" / "support" / "measured.py")], environment


def with_stats(start, uri, **settings):
    """Start a server that also reports on its workers. `start` is the fixture."""
    port = free_port()
    server = start(uri, options=["--stats", f"127.0.0.1:{port}"], **settings)
    wait_for(lambda: is_open(port))
    server.stats_port = port
    return server


def workers(server):
    """Return what uWSGI reports about each worker of a server that `with_stats` has started."""
    with socket.create_connection(("127.0.0.1", server.stats_port)) as connection:
        report = b"".join(iter(lambda: connection.recv(65536), b""))
    return json.loads(report)["workers"]
