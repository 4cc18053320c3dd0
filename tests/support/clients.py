"""The clients of the API: users, concurrent clients, and the form of every error response."""

import functools
import itertools
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import jwt
import requests
from support.processes import SECRET, wait_for

from resources.passwords import hash_password

PASSWORD = "correct horse battery staple"

# The error codes of the contract, each with its status.
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

# The headers that every response has.
HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Strict-Transport-Security": "max-age=31536000",
}

# Every method of every URL.
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
    """A user with a session, inserted into the database: unlike User, it costs no hash.

    Only this class knows how the API stores users, so only this class changes with it.
    """

    def __init__(self, api, database, name):
        self.api, self.name, self.password = api, name, PASSWORD
        session_id = str(uuid.uuid4())
        user = {"username": name, "password": stored_hash(), "sessions": [session_id]}
        self.id = str(database.users.insert_one(user).inserted_id)
        session = {"sub": self.id, "sid": session_id}
        self.access = sign({**session, "type": "access", "fresh": True})
        self.refresh = sign({**session, "type": "refresh", "fresh": False})


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

    `send(number, count)` is given the number of the client and the count of requests so far, and
    returns the status. `results` holds (begin, end, status) of each request.
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
