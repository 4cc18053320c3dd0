"""The clients of the API: users, concurrent clients, and the form of every error response."""

import functools
import io
import itertools
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import jwt
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from support.processes import SECRET, Client, wait_for

from resources.errors import ERRORS
from resources.passwords import hash_password

PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "another battery staple"

# The error codes, each with its status. A test compares them with the table in README.md.
ERROR_CODES = {code: status for code, (status, _) in ERRORS.items()}

# The headers that every response has.
HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Strict-Transport-Security": "max-age=31536000",
}

# An id that no todo has.
MISSING = "0123456789abcdef01234567"


class Route(NamedTuple):
    """A method of a URL, as the user alice calls it."""

    method: str
    path: str
    # "access", "fresh" (an access token from /login), "refresh", "any", or None.
    token: str | None
    # The fields of a well-formed body. None: there is no body.
    body: dict | None

    def __str__(self):
        """Return the name of a test case for this route."""
        return f"{self.method} {self.path}"


# All that the API has.
ROUTES = [
    Route("POST", "/register", None, {"username": "carol", "password": PASSWORD}),
    Route("POST", "/login", None, {"username": "alice", "password": PASSWORD}),
    Route("POST", "/refresh", "refresh", None),
    Route("POST", "/logout", "any", None),
    Route("GET", "/user/alice", "access", None),
    Route("PUT", "/user/alice", "fresh", {"current_password": PASSWORD, "password": NEW_PASSWORD}),
    Route("DELETE", "/user/alice", "fresh", None),
    Route("GET", "/todos", "access", None),
    Route("POST", "/todos", "access", {"name": "milk"}),
    Route("GET", f"/todos/{MISSING}", "access", None),
    Route("PUT", f"/todos/{MISSING}", "access", {"name": "milk"}),
    Route("DELETE", f"/todos/{MISSING}", "access", None),
]


# The app in the process of the tests.


class InProcess(Client):
    """A client of the app in this process, where a debugger and coverage reach the code.

    To the tests it looks like a Server. Only the network is left out: the package requests prepares
    each request and reads each response, as it does for a Server.
    """

    url = "http://localhost"

    def __init__(self, app, log):
        self.session, self.log = requests.Session(), log
        self.session.trust_env = False
        self.session.mount(self.url, WSGIAdapter(app))


class WSGIAdapter(BaseAdapter):
    """What a session of requests sends its requests with: Flask's test client, not a connection."""

    def __init__(self, app):
        self.app = app

    def send(self, request, **_options):
        """Send a prepared request, and return its response."""
        path, _, query = request.path_url.partition("?")
        received = self.app.test_client(use_cookies=False).open(
            method=request.method,
            headers=[(name, text(value)) for name, value in request.headers.items()],
            # Not as `data`, of which the test client would make a form if the type is multipart.
            input_stream=io.BytesIO(as_bytes(request.body)),
            buffered=True,
            # As a server passes them on: the bytes of the path, and the query unchanged.
            environ_overrides={
                "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
                "QUERY_STRING": query,
            },
        )
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code = received.status_code
        response.headers = CaseInsensitiveDict(received.headers)
        response.encoding = get_encoding_from_headers(response.headers)
        response.raw = io.BytesIO(received.data)
        return response

    def close(self):
        """Do nothing: there is no connection."""


def text(value):
    """Return the value of a header as text, in the encoding of headers."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def as_bytes(body):
    """Return the body of a prepared request as bytes."""
    return body.encode() if isinstance(body, str) else body or b""


# Users.


class User:
    """A user who has registered and logged in."""

    def __init__(self, api, name, password=PASSWORD):
        self.api, self.name, self.password = api, name, password
        response = api.post("/register", json={"username": name, "password": password})
        assert response.status_code == 201, response.text
        self.access, self.refresh = self.login()
        self.id = api.get(f"/user/{name}", self.access).json()["id"]

    def login(self):
        """Start another session, and return its access token and its refresh token."""
        response = self.api.post("/login", json={"username": self.name, "password": self.password})
        assert response.status_code == 200, response.text
        return response.json()["access_token"], response.json()["refresh_token"]

    def add(self, name="milk", **fields):
        """Add a todo, and return it."""
        response = self.api.post("/todos", self.access, json={"name": name, **fields})
        assert response.status_code == 201, response.text
        return response.json()


class InsertedUser(User):
    """A user with sessions, inserted into the database: unlike User, it costs no hash.

    Only this class knows how the API stores users, so only this class changes with it. `access` and
    `refresh` are the tokens of the first of its `sessions`.
    """

    def __init__(self, api, database, name, sessions=1):
        self.api, self.name, self.password = api, name, PASSWORD
        session_ids = [str(uuid.uuid4()) for _ in range(sessions)]
        user = {"username": name, "password": stored_hash(), "sessions": session_ids}
        self.id = str(database.users.insert_one(user).inserted_id)
        self.sessions = [self.tokens(session_id) for session_id in session_ids]
        self.access, self.refresh = self.sessions[0]

    def tokens(self, session_id):
        """Return the access token and the refresh token of a session."""
        session = {"sub": self.id, "sid": session_id}
        access = sign({**session, "type": "access", "fresh": True})
        return access, sign({**session, "type": "refresh", "fresh": False})


@functools.cache
def stored_hash():
    """Return a hash of PASSWORD, the same one for all inserted users."""
    return hash_password(PASSWORD)


def sign(session):
    """Return a token with these claims of a session, signed by the secret of the servers."""
    now = int(time.time())
    times = {"iat": now, "nbf": now, "exp": now + 15 * 60}
    return jwt.encode({**session, "jti": str(uuid.uuid4()), **times}, SECRET, algorithm="HS256")


def claims(token):
    """Return the claims of a token that the API has issued."""
    return jwt.decode(token, SECRET, algorithms=["HS256"])


# Responses.


def assert_error(response, status, code, message=None):
    """Assert that this is the contract's error response, with nothing else in it."""
    assert ERROR_CODES[code] == status
    assert response.status_code == status, response.text
    assert_headers(response)
    body = response.json()
    assert body.keys() == {"message", "error"}
    assert body["error"] == code
    if status >= 500:
        # Whatever has failed, a client learns nothing of it.
        message = ERRORS[code][1]
    if message is not None:
        assert body["message"] == message


def assert_headers(response):
    """Assert the headers that every response has, and those that its status requires."""
    for name, value in HEADERS.items():
        assert response.headers[name] == value
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    if response.status_code == 405:
        assert response.headers["Allow"]
    if response.status_code in (429, 503):
        assert int(response.headers["Retry-After"]) >= 1


def short(value):
    """Return a value as the name of a test case."""
    return repr(value)[:40]


# Concurrent clients.

_addresses = itertools.count(1)


def new_address():
    """Return the address of a client, a different one each time."""
    number = next(_addresses)
    return f"198.18.{number // 250}.{number % 250}"


def at_once(count, function, *arguments):
    """Call a function in so many threads at the same time, and return the results."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(function, *arguments) for _ in range(count)]
        return [future.result() for future in futures]


def timed(send):
    """Call `send`, and return the seconds that it took and its result."""
    begin = time.monotonic()
    response = send()
    return time.monotonic() - begin, response


def report(**measured):
    """Print what a test has measured. `python -m pytest -s` shows it."""
    name = os.environ.get("PYTEST_CURRENT_TEST", "").split("::")[-1].split(" ")[0]
    print("\n   ", name, measured)


class Load:
    """Clients that send one request after another until the block ends.

    `send()` returns the status. `results` holds (begin, end, status) of each request.
    """

    def __init__(self, send, clients=8):
        self.send, self.results, self.going = send, [], True
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self):
        while self.going:
            begin = time.monotonic()
            try:
                status = self.send()
            except requests.ConnectionError:
                status = None
            self.results.append((begin, time.monotonic(), status))
            if status is None:
                # The server may have ended. Without the pause this loop would take a processor.
                time.sleep(0.01)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        for thread in self.threads:
            thread.join()

    def successes(self):
        """Return how many requests have succeeded so far."""
        return sum(1 for _, _, status in self.results if status in (200, 201))

    def wait_for(self, count):
        """Wait until so many more requests have succeeded."""
        begin = self.successes()
        wait_for(lambda: self.successes() >= begin + count)


class Writers(Load):
    """Six clients that add todos, each with another name. `acknowledged` holds the names."""

    def __init__(self, user):
        self.user, self.acknowledged = user, []
        super().__init__(self.add, clients=6)

    def add(self):
        name = str(uuid.uuid4())
        response = self.user.api.post("/todos", self.user.access, json={"name": name})
        if response.status_code == 201:
            self.acknowledged.append(name)
        return response.status_code


class Control(Load):
    """A client whose requests need no database, 20 of them a second.

    Other programs of the machine delay them as well, so a response may be late by as much as the
    longest of them took, but by no more than a second: a server that blocks itself delays both.
    """

    def __init__(self, server):
        def send():
            time.sleep(0.05)
            return server.get("/nowhere").status_code

        super().__init__(send, clients=1)

    def assert_in_time(self, seconds):
        """Assert that a response has come within 5 seconds, which the API promises."""
        longest = max(end - begin for begin, end, _ in self.results)
        assert longest < 5
        assert seconds < 5 + min(longest, 1)
