"""Requests that nobody would think of: whatever comes, no 5xx, and every answer is JSON by the
contract."""

import json
import string
from urllib.parse import quote

import pytest
import requests
from helpers import ROUTES, User
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CODES = {
    200: {None},
    201: {None},
    400: {"bad_request"},
    401: {
        "authorization_required",
        "invalid_token",
        "token_revoked",
        "fresh_token_required",
        "invalid_credentials",
    },
    404: {"not_found"},
    405: {"method_not_allowed"},
    409: {"username_taken"},
    413: {"request_too_large"},
    415: {"unsupported_media_type"},
    429: {"too_many_attempts"},
}
FIELDS = st.sampled_from(
    ["username", "password", "name", "description", "done", "id", "$set", "name.x", ""]
)
ODD_TEXT = st.sampled_from(
    ["", " ", "\x00", "\ud800", "$ne", "a" * 70, "x" * 11_000, "true", "alice", "0" * 24, "\u202e"]
)
TEXT = ODD_TEXT | st.text(max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | TEXT, inner, max_size=3),
)
OBJECT = st.dictionaries(FIELDS | TEXT, LEAVES | JSON, max_size=5)
GOOD = st.fixed_dictionaries(
    {"name": st.text(min_size=1, max_size=9)},
    optional={"description": st.text(max_size=9), "done": st.booleans()},
)


PAIRS = st.lists(
    st.tuples(
        FIELDS | st.text(max_size=5), st.text(max_size=20) | st.sampled_from(["true", "%ff", "%00"])
    ),
    max_size=5,
)
FORMS = PAIRS.map(
    lambda pairs: "&".join(f"{quote(name)}={value}" for name, value in pairs).encode(
        "utf-8", "replace"
    )
)
DEEP = st.sampled_from(
    [
        b"[" * 9000,
        b'{"name":' * 9000,
        b'{"name":' + b"[" * 999 + b"]" * 999 + b"}",
        b'{"name":' + b"9" * 5000 + b"}",
        b"x" * 70_000,
    ]
)
TYPES = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded"]
    + [
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "application/json; charset=utf-16",
        "",
        "/",
        "a;b=c;;",
    ]
)
AS_JSON = st.one_of(GOOD, GOOD, OBJECT, JSON).map(lambda value: json.dumps(value).encode())
BODIES = st.one_of(
    st.just((None, None)),
    st.tuples(st.just("application/json"), AS_JSON),
    st.tuples(st.just("application/json"), AS_JSON | DEEP),
    st.tuples(st.just("application/x-www-form-urlencoded"), FORMS),
    st.tuples(TYPES, AS_JSON | FORMS | st.binary(max_size=200) | DEEP),
)
SEGMENTS = st.sampled_from(
    ["0" * 24, "f" * 24, "alice", "$where", "..", "%00", "%ff", "%2f", "{}", " ", "'"]
) | st.text(max_size=10).map(lambda text: quote(text, errors="replace"))
PATHS = st.one_of(
    st.builds("/{}/{}".format, st.sampled_from(["todos", "user", "x"]), SEGMENTS),
    st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts)),
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["limit", "done", "after", "skip", "done[$ne]", "%ff"]),
        st.text(max_size=9).map(lambda t: quote(t, errors="replace"))
        | st.sampled_from(["1", "100", "101", "true", "false", "%00", "9" * 5000]),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
METHODS = st.sampled_from(
    [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "HEAD",
        "OPTIONS",
        "TRACE",
        "BREW",
    ]
)
# Mostly what there is, since what there is not gets no further than the URL map.
TARGETS = st.one_of(*3 * [st.sampled_from(ROUTES)], st.tuples(METHODS, PATHS))
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Accept",
            "Accept-Encoding",
            "X-Forwarded-For",
            "Cookie",
            "X-HTTP-Method-Override",
            "Range",
            "Expect-CT",
            "If-Match",
        ]
    ),
    st.text(alphabet=string.ascii_letters + string.digits + "*/;=,.-", min_size=1, max_size=20),
    max_size=2,
)
TOKENS = st.one_of(
    *4 * [st.sampled_from(["access", "access", "refresh", None])],
    st.text(alphabet=string.printable[:94], max_size=30),
)


def check_answer(response):
    assert response.status_code in CODES, (response.status_code, response.text)
    assert response.headers["Content-Type"] == "application/json"
    if response.request.method != "HEAD":
        body = response.json()
        assert body.get("error") in CODES[response.status_code]
        if response.status_code >= 400:
            assert body.keys() == {"message", "error"}
            assert isinstance(body["message"], (str, dict)) and body["message"]
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    if response.status_code == 405:
        assert response.headers["Allow"]


def attack(api, examples):
    """Send that many requests that Hypothesis makes up, with the tokens of a user who stays logged
    in."""
    counts = {}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[
            Phase.generate
        ],  # Shrinking would send thousands more; the failing request is shown as it is.
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS, QUERIES, BODIES, HEADERS, TOKENS)
    def send(target, query, typed_body, headers, token):
        (method, path), (content_type, body) = target, typed_body
        if not counts or counts.get("since", 0) > 200:
            # Some requests log out, as they should. Then go on as somebody else.
            counts["since"] = 0
            name = f"user{counts.get('users', 0)}"
            counts["users"] = counts.get("users", 0) + 1
            counts["user"] = User(api, name)
        counts["since"] += 1
        user = counts["user"]
        token = {"access": user.access, "refresh": user.refresh}.get(token, token)
        headers = {**headers, "Content-Type": content_type} if body is not None else headers
        headers |= {"Authorization": f"Bearer {token}".rstrip()} if token is not None else {}
        request = requests.Request(method, api.url, headers=headers, data=body).prepare()
        request.url = f"{api.url}{path}?{query}"  # As it is: prepare() would tidy it up.
        response = api.session.send(request, timeout=30)
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        check_answer(response)

    send()
    return {status: count for status, count in counts.items() if isinstance(status, int)}


def test_whatever_comes_is_answered_by_the_contract(api):
    assert sum(attack(api, 500).values()) >= 500


@pytest.mark.slow
def test_ten_thousand_hostile_requests(api):
    counts = attack(api, 10_000)
    print("\n    requests by status", dict(sorted(counts.items())))
    assert sum(counts.values()) >= 10_000
    assert counts.keys() >= {200, 201, 400, 401, 404, 405, 413, 415}
