"""Tokens that the API has not issued, or that have expired: always a 401.

test_authorization.py has what is not a token, and test_access.py tokens of the wrong type.
"""

import base64
import json
import time

import jwt
import pytest
from bson import ObjectId
from support.clients import assert_error, claims
from support.processes import SECRET

MISSING = object()


def encode(part):
    """Return a part of a token, from bytes or from what JSON can hold."""
    if not isinstance(part, bytes):
        part = json.dumps(part).encode()
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def forge(token, secret=SECRET, algorithm="HS256", headers=None, **changes):
    """Return the token with other claims, signed again. Only a holder of the secret can do so."""
    changed = claims(token) | changes
    changed = {name: value for name, value in changed.items() if value is not MISSING}
    header = encode({"typ": "JWT", "alg": algorithm} | (headers or {}))
    signed = f"{header}.{encode(changed)}"
    if algorithm == "none":
        return signed + "."
    signature = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), secret.encode())
    return f"{signed}.{encode(signature)}"


def assert_rejected(api, token, code="invalid_token"):
    """Assert that an access token is rejected, both where it is required and at /logout."""
    assert_error(api.get("/todos", token), 401, code)
    assert_error(api.post("/logout", token), 401, code)


def seconds_from_now(seconds):
    return int(time.time()) + seconds


@pytest.mark.smoke
def test_forged_token_without_changes_is_accepted(api, alice):
    """Otherwise the tests below would prove nothing."""
    assert api.get("/todos", forge(alice.access)).status_code == 200
    assert api.post("/refresh", forge(alice.refresh)).status_code == 200


# The signature.


@pytest.mark.smoke
@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_token_with_another_algorithm_is_rejected(api, alice, algorithm):
    assert_rejected(api, forge(alice.access, algorithm=algorithm))
    assert_rejected(api, forge(alice.access, headers={"alg": algorithm}))


@pytest.mark.parametrize("algorithm", ["", None, ["HS256"], {}, 256], ids=str)
def test_token_that_names_no_algorithm_is_rejected(api, alice, algorithm):
    assert_rejected(api, forge(alice.access, headers={"alg": algorithm}))


OTHER_SECRETS = ["", "x" * 32, SECRET + " ", SECRET[:-1], SECRET.upper()]


@pytest.mark.parametrize(
    "secret", OTHER_SECRETS, ids=["empty", "other", "longer", "shorter", "upper case"]
)
def test_token_signed_with_another_secret_is_rejected(api, alice, secret):
    assert_rejected(api, forge(alice.access, secret))


def test_changed_claims_with_the_old_signature_are_rejected(api, alice, bob):
    header, payload, signature = alice.access.split(".")
    changed = encode(claims(alice.access) | {"sub": bob.id})
    assert_rejected(api, f"{header}.{changed}.{signature}")
    assert_rejected(api, f"{header}.{payload}.{bob.access.split('.')[2]}")


# Times. A clock may be up to 5 seconds ahead.


@pytest.mark.smoke
def test_expired_token_is_rejected_as_expired(api, alice):
    assert_rejected(api, forge(alice.access, exp=seconds_from_now(-5)), "token_expired")
    response = api.post("/refresh", forge(alice.refresh, exp=seconds_from_now(-5)))
    assert_error(response, 401, "token_expired")


def test_token_that_has_just_expired_is_accepted(api, alice):
    # Not 4 seconds ago, because the next second can begin before the API reads the token.
    access = forge(alice.access, exp=seconds_from_now(-2))
    assert api.get("/todos", access).status_code == 200
    refresh = forge(alice.refresh, exp=seconds_from_now(-2))
    assert api.post("/refresh", refresh).status_code == 200


def test_token_from_a_clock_that_is_ahead_is_accepted(api, alice):
    times = {"iat": seconds_from_now(5), "nbf": seconds_from_now(5)}
    assert api.get("/todos", forge(alice.access, **times)).status_code == 200
    assert api.post("/refresh", forge(alice.refresh, **times)).status_code == 200
    assert api.post("/logout", forge(alice.access, **times)).status_code == 200


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_token_that_is_not_valid_yet_is_rejected(api, alice, claim):
    assert_rejected(api, forge(alice.access, **{claim: seconds_from_now(60)}))


# The claims.


CLAIMS = ["sub", "sid", "jti", "type", "fresh", "exp", "iat", "nbf"]
WRONG_TYPES = [None, True, 1.5, [], {}, {"$ne": None}, ["x"], MISSING]


@pytest.mark.parametrize("claim", CLAIMS)
def test_missing_claim_or_claim_of_wrong_type_is_rejected(api, alice, claim):
    for value in WRONG_TYPES:
        if (claim, value) != ("fresh", True):
            changed = [forge(token, **{claim: value}) for token in (alice.access, alice.refresh)]
            assert_error(api.get("/todos", changed[0]), 401, "invalid_token")
            assert_error(api.post("/refresh", changed[1]), 401, "invalid_token")


WRONG_VALUES = [
    {"sub": "x"},
    {"sub": ""},
    {"sub": "alice"},
    {"sub": "\ud800"},
    {"sid": "\ud800"},
    {"sid": "é"},
    {"jti": "\udfff"},
    {"type": "Access"},
    {"type": ""},
    {"type": "\ud800"},
    {"fresh": 1},
    {"fresh": "true"},
    {"exp": "9999999999"},
    {"nbf": "x"},
    {"aud": "x"},
    {"aud": None},
]


@pytest.mark.parametrize("changes", WRONG_VALUES, ids=ascii)
def test_claim_with_a_value_that_the_api_never_issues_is_rejected(api, alice, changes):
    forged = forge(alice.access, **changes)
    assert_rejected(api, forged)
    assert_error(api.delete("/user/alice", forged), 401, "invalid_token")


@pytest.mark.parametrize("changes", ["unknown user", "unknown session", "session of another user"])
def test_token_of_no_session_is_rejected_as_revoked(api, database, alice, bob, changes):
    """Only a holder of the secret can issue such a token. It gives access to nothing."""
    alice.add()
    forged = forge(
        alice.access,
        **{
            "unknown user": {"sub": str(ObjectId())},
            "unknown session": {"sid": "x"},
            "session of another user": {"sub": bob.id},
        }[changes],
    )
    assert_rejected(api, forged, "token_revoked")
    for name in ("alice", "bob"):
        assert_error(api.delete(f"/user/{name}", forged), 401, "token_revoked")
    assert database.users.count_documents({}) == 2
    assert database.todos.count_documents({}) == 1


MALFORMED = {
    "three parts": "a.b.c",
    "header only": "eyJhbGciOiJIUzI1NiJ9..",
    "list as claims": encode({"alg": "HS256"}) + "." + encode([]) + ".x",
    "list as header": encode([]) + "." + encode({}) + ".x",
    "deep header": encode(b"[" * 4000) + ".e30.x",
    "deep claims": "e30." + encode(b"[" * 4000) + ".x",
    "deep objects": encode({"alg": "HS256"}) + "." + encode(b'{"a":' * 1200) + ".x",
    "long number": encode({"alg": "HS256"}) + "." + encode(b'{"exp":' + b"9" * 5000 + b"}") + ".x",
}


@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED)
def test_malformed_token_is_rejected(api, token):
    assert_rejected(api, token)
