"""What the tests share: a real MongoDB, a real server, and clients that talk to it through HTTP."""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import requests
from honcho.environ import parse_procfile
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException

from resources.local_mongodb import start_mongod

ROOT = Path(__file__).parent.parent
SECRET = "a secret for the tests, of at least 32 bytes"
PASSWORD = "correct horse battery staple"
# What a developer has set must not reach the servers under test. What is installed beside this
# Python must.
for setting in ("MONGODB_URI", "JWT_SECRET_KEY", "PORT", "WEB_CONCURRENCY"):
    os.environ.pop(setting, None)
CLEAN = os.environ | {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, seconds=15):
    """Ask until the condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still not true after {seconds} s: {condition}"
        time.sleep(
            0.02
        )  # Between two questions, so that asking does not take all of the processor.
    return result


class Mongod:
    """A mongod with a folder and a port of its own, which can be killed and started again."""

    def __init__(self, folder, options=()):
        self.folder, self.port, self.options = folder, free_port(), options
        self.uri = f"mongodb://127.0.0.1:{self.port}/test"
        self.start()

    def start(self):
        self.process = start_mongod(self.folder, self.port, self.options)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Server:
    """The API as a process of its own, reached through HTTP. `log` is where its output is."""

    def __init__(self, command, log, uri, port=None, cwd=ROOT, **env):
        self.port = port or free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        self.session = requests.Session()
        self.session.trust_env = (
            False  # Neither proxies nor netrc files: half the time of a request.
        )
        settings = {"PORT": str(self.port), "MONGODB_URI": uri, "JWT_SECRET_KEY": SECRET} | env
        environment = CLEAN | {name: value for name, value in settings.items() if value is not None}
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
    """The line of the Procfile. If there is no uWSGI, as on Windows, the developer's server."""
    if not shutil.which("uwsgi", path=CLEAN["PATH"]):
        return [sys.executable, "app.py"]
    return shlex.split(parse_procfile((ROOT / "Procfile").read_text()).processes["web"])


_addresses = itertools.count(1)


def new_address():
    """A client's address that no other test uses: each process remembers for a moment whom it has
    refused, also when the database has been emptied."""
    number = next(_addresses)
    return f"198.18.{number // 250}.{number % 250}"


class User:
    """A registered user with a session."""

    def __init__(self, api, name, password=PASSWORD):
        self.api, self.name, self.password = api, name, password
        assert (
            api.post("/register", json={"username": name, "password": password}).status_code == 201
        )
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


def claims(token):
    """What a token of ours says."""
    return jwt.decode(token, SECRET, algorithms=["HS256"])


def assert_error(response, status, code, message=None):
    """The contract's error body, and nothing beside it."""
    assert ERROR_CODES[code] == status
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.json().keys() == {"message", "error"}
    assert response.json()["error"] == code
    if message is not None:
        assert response.json()["message"] == message
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def stats(server):
    """What uWSGI says about itself on the stats socket that `with_stats` asks for."""
    with socket.create_connection(("127.0.0.1", server.stats_port)) as connection:
        return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))


def with_stats(start, uri, **settings):
    """Start a server that also tells which worker answered how many requests."""
    port = free_port()
    server = start(uri, options=["--stats", f"127.0.0.1:{port}"], **settings)
    server.stats_port = port
    return server


def at_once(count, function, *arguments):
    """Call a function from many threads at once; return the results."""
    with ThreadPoolExecutor(count) as pool:
        return [
            future.result() for future in [pool.submit(function, *arguments) for _ in range(count)]
        ]


def timed(send):
    """Send something; return the seconds that it took, and the answer."""
    begin = time.monotonic()
    answer = send()
    return time.monotonic() - begin, answer


def report(**figures):
    """Print figures; `python -m pytest -s` shows them."""
    print("\n   ", os.environ.get("PYTEST_CURRENT_TEST", "").split("::")[-1].split(" ")[0], figures)


class Load:
    """Clients that send one request after another until the block ends.

    `results` holds (begin, end, status) of each.
    """

    def __init__(self, send, clients=8):
        self.send, self.results, self.going = send, [], True
        self.threads = [
            threading.Thread(target=self.run, args=(number,)) for number in range(clients)
        ]

    def run(self, number):
        while self.going:
            begin = time.monotonic()
            try:
                status = self.send(number, len(self.results))
            except requests.ConnectionError:
                status = None
            self.results.append((begin, time.monotonic(), status))
            if status is None:
                time.sleep(0.01)  # The server may be gone: do not spin.

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        for thread in self.threads:
            thread.join()

    def wait_for(self, count):
        """Wait until so many more requests have succeeded."""
        begin = sum(1 for result in self.results if result[2] in (200, 201))
        wait_for(
            lambda: sum(1 for result in self.results if result[2] in (200, 201)) >= begin + count
        )


# What every route is, what the README and the Postman collection say.

# All error codes of the contract, each with its status.
ERROR_CODES = {
    "bad_request": 400,
    "authorization_required": 401,
    "invalid_token": 401,
    "token_expired": 401,
    "token_revoked": 401,
    "fresh_token_required": 401,
    "invalid_credentials": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "username_taken": 409,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "too_many_attempts": 429,
    "internal_error": 500,
    "database_unavailable": 503,
    "server_busy": 503,
}

ROUTES = [
    ("POST", "/register"),
    ("GET", "/user/alice"),
    ("PUT", "/user/alice"),
    ("DELETE", "/user/alice"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/refresh"),
    ("GET", "/todos"),
    ("POST", "/todos"),
    ("GET", "/todos/0123456789abcdef01234567"),
    ("PUT", "/todos/0123456789abcdef01234567"),
    ("DELETE", "/todos/0123456789abcdef01234567"),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What is new in each run.
CHANGING = re.compile(
    r"(?P<token>eyJ[\w.-]+)|(?<=after=)(?P<cursor>[\w.%-]+)"
    r"|(?P<time>\d{4}-\d\d-\d\dT[\d:.]{12}Z)|(?P<id>\b[0-9a-f]{24}\b)"
    r"|(?P<hash>\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]+\$[\w+/]+)"
    r"|(?P<uuid>[0-9a-f]{8}-[0-9a-f-]{27})|(?P<seconds>\b1[789]\d{8}\b)"
    r"|(?P<datetime>datetime\.datetime\([\d, ]+\))|(?<=Retry-After: )(?P<wait>\d+)"
)


def chapter(title):
    """The text of a chapter of the README."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


def blocks(text):
    """Each block of commands that is followed by its output, as (commands, output)."""
    return re.findall(r"```sh\n([^`]*)```\n\n```(?:json|text)\n([^`]*)```", text)


def normalised(text):
    """The text with its ids and times numbered as they first appear: the same id stays the same."""
    seen = {}

    def name(match):
        kind = match.lastgroup
        if kind in ("id", "time", "cursor"):
            return f"{kind}{seen.setdefault(match[0], len(seen))}"
        # Whether two of the others are the same is not shown.
        return kind

    return CHANGING.sub(name, text)


def keep_what_is_new_each_time(shown, output):
    """The output with the ids and times that were shown before, so that only changes are seen.

    Tokens are shortened: none may stand in the repository.
    """
    output = re.sub(r"eyJ[\w.-]+", "eyJ...", output)
    before = [match[0] for match in CHANGING.finditer(shown)]
    if len(before) != len(CHANGING.findall(output)):
        return output
    places = iter(before)
    return CHANGING.sub(lambda match: next(places), output)


PATH = ROOT / "tests" / "todo-api.postman_collection.json"
COLLECTION = json.loads(PATH.read_text(encoding="utf-8"))
REQUESTS = [request for folder in COLLECTION["item"] for request in folder["item"]]


def served(adapter, item):
    """The endpoint that answers a request, and its method. None if a script makes the URL."""
    path = item["request"]["url"].removeprefix("{{url}}").split("?")[0]
    try:
        return adapter.match(re.sub(r"{{\w+}}", "x", path), item["request"]["method"])[0], item[
            "request"
        ]["method"]
    except HTTPException:
        return None


# A replica set: what Atlas runs, on one machine.


class ReplicaSet:
    """Three mongods that hold the same data. One of them, the primary, takes the writes and hands
    them on to the others, the secondaries. Where it is gone, they make one of them the primary."""

    def __init__(self, folder):
        # The oplog is the list of the latest writes, which is handed on. By default it may grow to
        # 5 percent of the disk.
        options = ["--replSet", "set", "--oplogSize", "64"]
        self.members = [Mongod(folder / f"member{number}", options) for number in range(3)]
        hosts = [f"127.0.0.1:{member.port}" for member in self.members]
        self.uri = f"mongodb://{','.join(hosts)}/test?replicaSet=set"
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        with self.connect_to(self.members[0]) as client:
            client.admin.command("replSetInitiate", {"_id": "set", "members": members})
        self.wait_until_whole()

    @staticmethod
    def connect_to(member):
        """A client of this one member, whatever its part in the set is."""
        return MongoClient("127.0.0.1", member.port, directConnection=True, timeoutMS=1000)

    def part_of(self, member):
        """Whether this member is "primary" or "secondary"; None where it is neither, or away."""
        with self.connect_to(member) as client:
            try:
                answer = client.admin.command("hello")
            except PyMongoError:
                return None
        if answer["isWritablePrimary"]:
            return "primary"
        return "secondary" if answer["secondary"] else None

    def wait_for_primary(self, members=None):
        """Wait until one of these members (by default, of all) is the primary, and return it."""
        members = members or self.members

        def primaries():
            return [member for member in members if self.part_of(member) == "primary"]

        return wait_for(primaries, seconds=60)[0]

    def wait_until_whole(self):
        """Wait until there are a primary and two secondaries."""

        def is_whole():
            parts = sorted(str(self.part_of(member)) for member in self.members)
            return parts == ["primary", "secondary", "secondary"]

        wait_for(is_whole, seconds=60)

    def kill(self):
        for member in self.members:
            member.kill()
