"""The header Authorization: exactly `Bearer <token>`, or a 401 that says what is wrong with it."""

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clients import MISSING, ROUTES, assert_error, assert_headers

PROTECTED = [route for route in ROUTES if route.token]

REQUIRED, INVALID = "authorization_required", "invalid_token"
SEND = "Send a token: Authorization: Bearer <token>"
SCHEME = "Write Bearer and a space before the token."
BEHIND = "The token is missing. Write it behind Bearer."
TWICE = "Bearer is there twice. Write it once."
QUOTES = "Send the token without quotation marks."
VARIABLE = "Your client has not replaced its variable by a token. Log in first, in this client."
BRACKETS = "Send the token itself, without < and >."
EMPTY = "Your client has no token in its variable. Log in first, in this client."
ONE = "Send one token, without spaces and commas, behind one space."
NO_TOKEN = "This is not a token. Send one that /login has returned."

# The header, where T is a valid token, with the code and the message of the response.
SHAPES = {
    "": (REQUIRED, SEND),
    "T": (REQUIRED, SCHEME),
    "JWT T": (REQUIRED, SCHEME),
    "Token T": (REQUIRED, SCHEME),
    "Basic YWxpY2U6eA==": (REQUIRED, SCHEME),
    "Digest username=alice": (REQUIRED, SCHEME),
    "Bearer: T": (REQUIRED, SCHEME),
    "Bearer:T": (REQUIRED, SCHEME),
    "Bearer=T": (REQUIRED, SCHEME),
    "BearerT": (REQUIRED, SCHEME),
    "Bearer\tT": (REQUIRED, SCHEME),
    "Bearer,": (REQUIRED, SCHEME),
    "Bearer,T": (REQUIRED, SCHEME),
    '"Bearer T"': (REQUIRED, SCHEME),
    "Authorization: Bearer T": (REQUIRED, SCHEME),
    ",": (REQUIRED, SCHEME),
    ", ,": (REQUIRED, SCHEME),
    ",,,": (REQUIRED, SCHEME),
    ", Bearer T": (REQUIRED, SCHEME),
    "Basic x, Bearer T": (REQUIRED, SCHEME),
    "x" * 8000: (REQUIRED, SCHEME),
    "é": (REQUIRED, SCHEME),
    "Bearer": (REQUIRED, BEHIND),
    "bearer": (REQUIRED, BEHIND),
    "Bearer ": (REQUIRED, BEHIND),
    "Bearer Bearer T": (INVALID, TWICE),
    "Bearer bearer T": (INVALID, TWICE),
    "bearer BEARER T": (INVALID, TWICE),
    "Bearer Bearer": (INVALID, TWICE),
    'Bearer "T"': (INVALID, QUOTES),
    "Bearer 'T'": (INVALID, QUOTES),
    "Bearer `T`": (INVALID, QUOTES),
    'Bearer "T': (INVALID, QUOTES),
    "Bearer T'": (INVALID, QUOTES),
    'Bearer "Bearer T"': (INVALID, QUOTES),
    "Bearer “T”": (INVALID, QUOTES),
    "Bearer ‘T’": (INVALID, QUOTES),
    "Bearer „T“": (INVALID, QUOTES),
    "Bearer «T»": (INVALID, QUOTES),
    "Bearer {{access_token}}": (INVALID, VARIABLE),
    "Bearer {access_token}": (INVALID, VARIABLE),
    "Bearer {T}": (INVALID, VARIABLE),
    "Bearer $TOKEN": (INVALID, VARIABLE),
    "Bearer ${TOKEN}": (INVALID, VARIABLE),
    "Bearer <T>": (INVALID, BRACKETS),
    "Bearer <token>": (INVALID, BRACKETS),
    "Bearer <access token>": (INVALID, BRACKETS),
    "Bearer undefined": (INVALID, EMPTY),
    "Bearer null": (INVALID, EMPTY),
    "Bearer None": (INVALID, EMPTY),
    "Bearer nil": (INVALID, EMPTY),
    "Bearer NaN": (INVALID, EMPTY),
    "Bearer false": (INVALID, EMPTY),
    "Bearer [object Object]": (INVALID, EMPTY),
    "Bearer  T": (INVALID, ONE),
    "Bearer \tT": (INVALID, ONE),
    "Bearer T T": (INVALID, ONE),
    "Bearer JWT T": (INVALID, ONE),
    "Bearer T,": (INVALID, ONE),
    "Bearer ,": (INVALID, ONE),
    "Bearer , ,": (INVALID, ONE),
    "Bearer T, T": (INVALID, ONE),
    "Bearer T, Basic x": (INVALID, ONE),
    "Bearer T,Bearer T": (INVALID, ONE),
    "Bearer a, Bearer b": (INVALID, ONE),
    "Bearer a b": (INVALID, ONE),
    "Bearer x": (INVALID, NO_TOKEN),
    "Bearer ...": (INVALID, NO_TOKEN),
    "Bearer ..": (INVALID, NO_TOKEN),
    "Bearer eyJ...": (INVALID, NO_TOKEN),
    "Bearer T.x": (INVALID, NO_TOKEN),
    "Bearer %00": (INVALID, NO_TOKEN),
    "Bearer Té": (INVALID, NO_TOKEN),
    "Bearer \ufeffT": (INVALID, NO_TOKEN),
    "Bearer " + "x" * 8000: (INVALID, NO_TOKEN),
    "Bearer " + "." * 8000: (INVALID, NO_TOKEN),
    "Bearer " + "é" * 3000: (INVALID, NO_TOKEN),
}


# One shape for each message.
EXAMPLES = {message: shape for shape, (_, message) in reversed(SHAPES.items())}.values()


def header(shape, token):
    """Return the header of this shape. As bytes, since some of them are not ASCII."""
    return {"Authorization": shape.replace("T", token).encode()}


def ids(shape):
    return repr(shape)[:30]


@pytest.mark.smoke
@pytest.mark.parametrize("shape", SHAPES, ids=ids)
def test_header_of_another_form_gives_401_that_says_what_is_wrong(api, alice, shape):
    code, message = SHAPES[shape]
    response = api.get("/todos", headers=header(shape, alice.access))
    assert_error(response, 401, code, message)


@pytest.mark.parametrize("route", PROTECTED, ids=str)
def test_every_route_with_a_token_reads_the_header_in_the_same_way(api, database, alice, route):
    token = alice.refresh if route.token == "refresh" else alice.access
    before = list(database.users.find())
    for shape in EXAMPLES:
        headers = header(shape, token)
        response = api.request(route.method, route.path, headers=headers, json=route.body)
        assert_error(response, 401, *SHAPES[shape])
    assert list(database.users.find()) == before
    assert not list(database.todos.find())


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
def test_scheme_is_compared_without_case(api, alice, scheme):
    headers = {"Authorization": f"{scheme} {alice.access}"}
    assert api.get("/todos", headers=headers).status_code == 200
    assert api.delete("/user/alice", headers=headers).status_code == 200


@pytest.mark.parametrize("after", [" ", "\t", " \t "], ids=repr)
def test_space_behind_the_header_is_not_part_of_it(api, alice, after):
    headers = {"Authorization": f"Bearer {alice.access}{after}"}
    assert api.get("/todos", headers=headers).status_code == 200


@pytest.mark.parametrize("value", [b"\xff", b"Bearer \xff", b"Bearer \xa0", b"Bearer a.b.\xff"])
def test_header_of_bytes_that_are_not_utf8_gives_401(api, value):
    response = api.get("/todos", headers={"Authorization": value})
    assert_error(response, 401, INVALID if value.startswith(b"Bearer ") else REQUIRED)


def test_header_is_ignored_where_no_token_is_required(api, alice):
    login = {"username": "alice", "password": alice.password}
    assert api.post("/login", json=login, headers=header("Bearer Bearer T", "x")).ok
    # The last one has the form of a token.
    for shape in [*EXAMPLES, "Bearer a.b.c"]:
        headers = header(shape, alice.access)
        assert_error(api.post("/register", json={}, headers=headers), 400, "bad_request")
        assert_error(api.post("/login", json={}, headers=headers), 400, "bad_request")
        assert_error(api.get("/nowhere", headers=headers), 404, "not_found")
        assert_error(api.request("PATCH", "/todos", headers=headers), 405, "method_not_allowed")


def test_header_that_is_there_twice_gives_401(api, alice):
    """A server joins the two lines with a comma."""
    token = f"Bearer {alice.access}"
    request = requests.Request("GET", f"{api.url}/todos").prepare()
    for first, second in ((token, token), (token, "Basic x"), ("Basic x", token)):
        request.headers = {"Authorization": first, "authorization": second}
        response = api.session.send(request, timeout=60)
        assert_error(response, 401, INVALID if first == token else REQUIRED)


def test_token_outside_the_header_is_ignored(api, alice):
    responses = [
        api.get(f"/todos?jwt={alice.access}"),
        api.get("/todos", headers={"Cookie": f"access_token_cookie={alice.access}"}),
        api.get("/todos", headers={"X-Authorization": f"Bearer {alice.access}"}),
        api.post("/todos", json={"access_token": alice.access, "name": "x"}),
    ]
    for response in responses:
        assert_error(response, 401, REQUIRED, SEND)


# Headers that Hypothesis makes up.

PIECES = st.sampled_from(["Bearer", "bearer", "T", " ", "  ", "\t", ",", ", ", '"', "'", "<", ">"])
PIECES |= st.sampled_from(
    ["{{", "}}", "=", ":", ";", ".", "..", "null", "é", "\xa0", "\xff", "JWT"]
)
VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
VALUES = st.lists(PIECES | st.text(VISIBLE, max_size=5), max_size=8).map("".join)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_any_other_header_gives_401(api, alice, count):
    @settings(max_examples=count, deadline=None, database=None)
    @given(VALUES | VALUES.map("Bearer {}".format))
    def send(value):
        value = value.replace("T", alice.access).lstrip().encode("latin-1")
        response = api.get(f"/todos/{MISSING}", headers={"Authorization": value})
        # Spaces and tabs around a header are not part of it.
        value = value.strip(b" \t")
        if response.status_code == 401:
            assert_headers(response)
            is_bearer = value.lower().startswith(b"bearer ")
            assert response.json()["error"] == (INVALID if is_bearer else REQUIRED)
        else:
            assert value.lower() == b"bearer " + alice.access.lower().encode()
            assert_error(response, 404, "not_found")

    send()
