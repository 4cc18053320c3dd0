"""Requests of an attacker. Whatever comes, the response is one of the contract, and never a 5xx."""

import json
import string
from collections import Counter
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.clients import (
    ERROR_CODES,
    MISSING,
    ROUTES,
    InsertedUser,
    Route,
    assert_error,
    assert_headers,
)
from support.processes import empty

# MongoDB's operators.


OPERATORS = [
    {"$gt": ""},
    {"$ne": None},
    {"$regex": ".*"},
    {"$where": "1"},
    {"$in": ["alice"]},
    {"$exists": True},
    ["$ne"],
]


def bodies_with(operator):
    """Return bodies for /register and /login that contain an operator of MongoDB."""
    return [
        {"username": operator, "password": operator},
        {"username": "alice", "password": operator},
        {"username[$gt]": "", "password[$gt]": ""},
    ]


@pytest.mark.parametrize("operator", OPERATORS, ids=json.dumps)
def test_operator_of_mongodb_never_matches_a_user(api, database, alice, operator):
    before = list(database.users.find())
    for body in bodies_with(operator):
        assert_error(api.post("/register", json=body), 400, "bad_request")
        assert_error(api.post("/login", json=body), 400, "bad_request")
    text = json.dumps(operator)
    login = api.post("/login", json={"username": text, "password": text})
    assert_error(login, 401, "invalid_credentials")
    assert_error(api.get(f"/user/{text}", alice.access), 404, "not_found")
    assert list(database.users.find()) == before


# Requests that Hypothesis makes up. Each strategy below describes one part of a request.


def some(*values):
    """Return a strategy that chooses one of these values."""
    return st.sampled_from(values)


def often(times, strategy, *others):
    """Return a strategy that chooses the first one so many times as often as any other.

    `one_of` would not do: of a strategy that is given several times, it keeps one.
    """
    return some(*times * [strategy], *others).flatmap(lambda chosen: chosen)


FIELDS = some("username", "password", "name", "description", "done", "id", "$set", "name.x", "")
ODD_TEXT = some("", " ", "\x00", "\ud800", "$ne", "a" * 70, "x" * 11_000, "true", "alice", "0" * 24)
TEXT = ODD_TEXT | st.just("\u202e") | st.text(max_size=20)
NAMES = FIELDS | TEXT

# JSON: todos that are accepted, objects of any fields, and any values.
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY_JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)
OBJECTS = st.dictionaries(NAMES, ANY_JSON, max_size=5)
GOOD_TODOS = st.fixed_dictionaries(
    {"name": st.text(min_size=1, max_size=9)},
    optional={"description": st.text(max_size=9), "done": st.booleans()},
)
JSON_BODIES = often(2, GOOD_TODOS, OBJECTS, ANY_JSON).map(lambda value: json.dumps(value).encode())

FORM_VALUES = st.text(max_size=20) | some("true", "%ff", "%00")
FORM_FIELDS = st.lists(st.tuples(FIELDS | st.text(max_size=5), FORM_VALUES), max_size=5)


def as_form(fields):
    """Return (name, value) pairs as the body of a form. The values stay as they are."""
    form = "&".join(f"{quote(name)}={value}" for name, value in fields)
    return form.encode("utf-8", "replace")


FORMS = FORM_FIELDS.map(as_form)

LARGE_BODIES = some(
    b"[" * 9000,
    b'{"name":' * 9000,
    b'{"name":' + b"[" * 999 + b"]" * 999 + b"}",
    b'{"name":' + b"9" * 5000 + b"}",
    b"x" * 70_000,
)

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
MULTIPART = ["multipart/form-data; boundary=x", "multipart/form-data"]
CONTENT_TYPES = some(
    *[JSON, FORM, *MULTIPART, "application/json; charset=utf-16", "text/plain", "", "/", "a;b=c;;"]
)
WELL_FORMED = object()
# Pairs of a content type and a body.
BODIES = often(
    3,
    st.just((JSON, WELL_FORMED)),
    st.just((None, None)),
    st.tuples(st.just(JSON), JSON_BODIES),
    st.tuples(st.just(JSON), JSON_BODIES | LARGE_BODIES),
    st.tuples(st.just(FORM), FORMS),
    st.tuples(CONTENT_TYPES, JSON_BODIES | FORMS | LARGE_BODIES | st.binary(max_size=200)),
)

SEGMENTS = some("0" * 24, "f" * 24, "alice", "$where", "..", "%00", "%ff", "%2f", "{}", " ", "'")
SEGMENTS |= st.text(max_size=10).map(lambda text: quote(text, errors="replace"))
PATHS = st.one_of(
    st.builds("/{}/{}".format, some("todos", "user", "x"), SEGMENTS),
    st.lists(SEGMENTS, max_size=4).map(lambda segments: "/" + "/".join(segments)),
)
VERBS = ["GET", "POST", "PUT", "DELETE"]
METHODS = some(*VERBS, *VERBS, "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")
# Mostly routes of the API, because a request for any other one ends at the URL map.
TARGETS = often(3, some(*ROUTES), st.builds(Route, METHODS, PATHS, st.none(), st.just({})))

PARAMETERS = some("limit", "done", "after", "skip", "done[$ne]", "%ff")
PARAMETER_VALUES = some("1", "100", "101", "true", "false", "%00", "9" * 5000)
PARAMETER_VALUES |= st.text(max_size=9).map(lambda text: quote(text, errors="replace"))
QUERIES = st.lists(st.tuples(PARAMETERS, PARAMETER_VALUES), max_size=3).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)

HEADER_NAMES = ["Accept", "Accept-Encoding", "X-Forwarded-For", "X_Forwarded_For", "Cookie"]
HEADER_NAMES += ["X-HTTP-Method-Override", "Range", "Expect-CT", "If-Match", "Content-Encoding"]
HEADER_VALUES = st.text(string.ascii_letters + string.digits + "*/;=,.-", min_size=1, max_size=20)
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=2)

# The names of Alice's tokens, no token at all, or what is not a token.
TOKENS = often(
    4, some("access", "access", "refresh", None), st.text(string.printable[:94], max_size=30)
)


def assert_response_of_the_contract(response):
    """Assert that the API reference allows this response to some request."""
    assert_headers(response)
    assert response.status_code < 500, response.text
    if response.request.method == "HEAD":
        return
    body = response.json()
    if response.status_code < 400:
        assert response.status_code in (200, 201)
        assert "error" not in body
        return
    assert body.keys() == {"message", "error"}
    assert ERROR_CODES[body["error"]] == response.status_code
    assert isinstance(body["message"], (str, dict))
    assert body["message"]


def send_hostile_requests(api, database, count):
    """Send so many requests, most of them with the tokens of a user who has a todo.

    Return how many responses had each status.
    """
    statuses = Counter()
    alice = todo = None

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        # Without shrinking, which would send thousands more: a failure shows the request as it was.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS, QUERIES, BODIES, HEADERS, TOKENS)
    def send(route, query, typed_body, headers, token):
        nonlocal alice, todo
        if alice is None:
            empty(database)
            alice = InsertedUser(api, database, "alice")
            todo = alice.add()
        tokens = {"access": alice.access, "refresh": alice.refresh}
        if token is not None:
            authorization = f"Bearer {tokens.get(token, token)}".rstrip()
            headers = {**headers, "Authorization": authorization}
        content_type, body = typed_body
        if body is WELL_FORMED:
            body = json.dumps(route.body)
        if body is not None:
            headers = {**headers, "Content-Type": content_type}
        request = requests.Request(route.method, api.url, headers=headers, data=body).prepare()
        # `prepare` would change an odd URL.
        request.url = f"{api.url}{route.path.replace(MISSING, todo['id'])}?{query}"
        response = api.session.send(request, timeout=30)
        statuses[response.status_code] += 1
        assert_response_of_the_contract(response)
        # Some of the requests end her session.
        if "token_revoked" in response.text:
            alice = None

    send()
    return statuses


def test_hostile_request_gets_a_response_of_the_contract(api, database):
    assert send_hostile_requests(api, database, 100).total() >= 100


@pytest.mark.slow
def test_a_thousand_hostile_requests_get_responses_of_the_contract(api, database):
    statuses = send_hostile_requests(api, database, 1_000)
    print("\n    requests by status", dict(sorted(statuses.items())))
    assert statuses.total() >= 1_000
    # Many of each. Whether the others occur is chance.
    assert statuses.keys() >= {200, 201, 400, 401, 404}
