"""Tokens that were not issued, or no longer hold: a 401 each, whatever is wrong with them."""

import base64
import http.client
import json
import time

import jwt
import pytest
from bson import ObjectId
from helpers import SECRET, assert_error, claims

MISSING = object()
WRONG_TYPES = [None, True, 1.5, [], {}, {"$ne": None}, {"$gt": ""}, ["x"], MISSING]


def encode(part):
    return (
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())
        .rstrip(b"=")
        .decode()
    )


def forge(token, secret=SECRET, algorithm="HS256", headers=None, **changes):
    """The token with other claims, signed by us: what only the holder of the secret can make."""
    changed = {
        name: value for name, value in (claims(token) | changes).items() if value is not MISSING
    }
    header = encode({"typ": "JWT", "alg": algorithm} | (headers or {}))
    signed = f"{header}.{encode(changed)}"
    if algorithm == "none":
        return signed + "."
    signature = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), secret.encode())
    return f"{signed}.{encode(signature)}"


def test_forged_token_with_nothing_changed_is_taken(api, alice):
    """Otherwise the tests below would prove nothing."""
    assert api.get("/todos", forge(alice.access)).status_code == 200


def refused(api, token, code="invalid_token", refresh=False):
    assert_error(api.post("/refresh", token) if refresh else api.get("/todos", token), 401, code)
    assert_error(api.post("/logout", token), 401, code)


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_other_algorithms_are_refused(api, alice, algorithm):
    refused(api, forge(alice.access, algorithm=algorithm))
    refused(api, forge(alice.access, headers={"alg": algorithm}))


@pytest.mark.parametrize(
    "headers",
    [
        {"alg": "none"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {"crit": ["x"]},
        {"kid": 1},
        {"b64": False},
    ],
)
def test_odd_headers_are_refused(api, alice, headers):
    refused(api, forge(alice.access, headers=headers))


@pytest.mark.parametrize("secret", ["", "x" * 32, SECRET + " ", SECRET[:-1], SECRET.upper()])
def test_other_secrets_are_refused(api, alice, secret):
    refused(api, forge(alice.access, secret))


def test_every_flipped_bit_of_the_signature_is_refused(api, alice):
    signed, _, signature = alice.access.rpartition(".")
    signature = base64.urlsafe_b64decode(signature + "=")
    for bit in range(len(signature) * 8):
        flipped = bytes(
            byte ^ (1 << bit % 8 if bit // 8 == place else 0)
            for place, byte in enumerate(signature)
        )
        assert_error(api.get("/todos", f"{signed}.{encode(flipped)}"), 401, "invalid_token")


def test_changed_claims_with_the_old_signature_are_refused(api, alice, bob):
    header, payload, signature = alice.access.split(".")
    changed = encode(claims(alice.access) | {"sub": bob.id})
    refused(api, f"{header}.{changed}.{signature}")
    refused(api, f"{header}.{payload}.{bob.access.split('.')[2]}")


@pytest.mark.parametrize("seconds", [0, -1, -3600])
def test_expired_token_is_refused_as_that(api, alice, seconds):
    refused(api, forge(alice.access, exp=int(time.time()) + seconds), "token_expired")
    refused(
        api, forge(alice.refresh, exp=int(time.time()) + seconds), "token_expired", refresh=True
    )


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_token_that_is_not_yet_valid_is_refused(api, alice, claim):
    refused(api, forge(alice.access, **{claim: int(time.time()) + 60}))


def test_refresh_and_access_token_do_not_stand_in_for_each_other(api, alice):
    assert_error(api.get("/todos", alice.refresh), 401, "invalid_token")
    assert_error(api.post("/refresh", alice.access), 401, "invalid_token")


CLAIMS = ["sub", "sid", "password_id", "jti", "type", "fresh", "exp", "iat", "nbf"]
ODD_CLAIMS = [(claim, value) for claim in CLAIMS for value in WRONG_TYPES]
# True is right for `fresh`.
ODD_CLAIMS.remove(("fresh", True))


@pytest.mark.parametrize(("claim", "value"), ODD_CLAIMS)
def test_missing_and_odd_claims_are_refused(api, alice, claim, value):
    for token in (alice.access, alice.refresh):
        changed = forge(token, **{claim: value})
        assert_error(api.get("/todos", changed), 401, "invalid_token")
        assert_error(api.post("/refresh", changed), 401, "invalid_token")
        assert_error(api.post("/logout", changed), 401, "invalid_token")
        assert_error(api.delete("/user/alice", changed), 401, "invalid_token")


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "x"},
        {"sub": ""},
        {"sub": "alice"},
        {"sub": "\ud800"},
        {"sid": "\ud800"},
        {"jti": "\udfff"},
        {"password_id": "\ud800"},
        {"type": "Access"},
        {"type": ""},
        {"fresh": 1},
        {"fresh": "true"},
        {"exp": "9999999999"},
        {"nbf": "x"},
        {"aud": "x"},
    ],
)
def test_values_that_we_would_not_write_are_refused(api, alice, changes):
    token = forge(alice.access, **changes)
    for response in (
        api.get("/todos", token),
        api.post("/logout", token),
        api.delete("/user/alice", token),
    ):
        assert_error(response, 401, "invalid_token")


def test_user_who_never_was_has_nothing(api, database, alice):
    """Only the holder of the secret can make such a token; it is valid, and opens nothing."""
    token = forge(alice.access, sub=str(ObjectId()))
    alice.add()
    assert api.get("/todos", token).json()["todos"] == []
    assert_error(api.get("/user/alice", token), 404, "not_found")
    assert_error(api.delete("/user/alice", token), 404, "not_found")
    assert database.users.count_documents({}) == database.todos.count_documents({}) == 1


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "..",
        "eyJhbGciOiJIUzI1NiJ9..",
        encode({"alg": "HS256"}) + "." + encode([]) + ".x",
        encode([]) + "." + encode({}) + ".x",
        encode(b"[" * 4000) + ".e30.x",
        "e30." + encode(b"[" * 4000) + ".x",
        encode({"alg": "HS256"}) + "." + encode(b'{"a":' * 1200) + ".x",
        encode({"alg": "HS256"}) + "." + encode(b'{"exp":' + b"9" * 5000 + b"}") + ".x",
        "x" * 8000,
        "." * 8000,
        "%00",
    ],
)
def test_what_is_no_token_is_refused(api, database, token):
    refused(api, token)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "bearer x",
        "Basic YWxpY2U6eA==",
        "Bearer a b",
        "Token x",
        "x",
        ",",
        "Bearer,",
        "Bearer a, Bearer b",
        "x" * 8000,
    ],
)
def test_header_that_is_no_bearer_token_is_told_so(api, database, value):
    assert_error(api.get("/todos", headers={"Authorization": value}), 401, "authorization_required")


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer \xff\xfe",
        b"\xff",
        "Bearer é.ü.ß".encode(),
        b"Bearer \xa0",
        b"Bearer " + b"\xff" * 8000,
    ],
)
def test_header_of_other_bytes_is_a_401(api, database, value):
    connection = http.client.HTTPConnection("127.0.0.1", api.port)
    connection.putrequest("GET", "/todos")
    connection.putheader("Authorization", value)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 401
    assert json.loads(response.read())["error"] in ("authorization_required", "invalid_token")


def test_token_elsewhere_than_in_the_header_does_not_count(api, alice):
    assert_error(api.get(f"/todos?jwt={alice.access}"), 401, "authorization_required")
    assert_error(
        api.get("/todos", cookies={"access_token_cookie": alice.access}),
        401,
        "authorization_required",
    )
    assert_error(
        api.post("/todos", json={"access_token": alice.access, "name": "x"}),
        401,
        "authorization_required",
    )


OPERATORS = [
    {"$gt": ""},
    {"$ne": None},
    {"$regex": ".*"},
    {"$where": "1"},
    {"$in": ["alice"]},
    {"$exists": True},
    ["$ne"],
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_mongodb_operators_never_match(api, database, alice, operator):
    todo, before = alice.add(), list(database.users.find())
    for path in ("/register", "/login"):
        assert_error(
            api.post(path, json={"username": operator, "password": operator}), 400, "bad_request"
        )
        assert_error(
            api.post(path, json={"username": "alice", "password": operator}), 400, "bad_request"
        )
        assert_error(
            api.post(path, json={"username[$gt]": "", "password[$gt]": ""}), 400, "bad_request"
        )
    for name in ("name", "description", "done", "_id", "owner_id", "$set"):
        assert_error(
            api.post("/todos", alice.access, json={"name": "x", name: operator}), 400, "bad_request"
        )
        assert_error(
            api.put(f"/todos/{todo['id']}", alice.access, json={name: operator}), 400, "bad_request"
        )
    text = json.dumps(operator)
    for name in ("limit", "done", "after", "owner_id", "done[$ne]", "$where"):
        assert_error(api.get("/todos", alice.access, params={name: text}), 400, "bad_request")
    assert_error(api.get(f"/user/{text}", alice.access), 404, "not_found")
    assert_error(api.get(f"/todos/{text}", alice.access), 404, "not_found")
    assert_error(
        api.post("/login", json={"username": text, "password": text}), 401, "invalid_credentials"
    )
    assert list(database.users.find()) == before
    assert api.get("/todos", alice.access).json()["todos"] == [todo]
