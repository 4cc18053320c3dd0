"""Who may call what: every route with every kind of token, and what is not a route."""

import pytest
from support.actions import change_password, delete_user
from support.clients import MISSING, ROUTES, assert_error, assert_headers
from support.processes import stored

from app import app

PROTECTED = [route for route in ROUTES if route.token]
PATHS = sorted({route.path for route in ROUTES})

# For each kind of token that a route requires, the others, each with its error.
REFUSED = {
    "access": {"none": "authorization_required", "refresh": "invalid_token"},
    "fresh": {
        "none": "authorization_required",
        "refresh": "invalid_token",
        "stale": "fresh_token_required",
    },
    "refresh": {
        "none": "authorization_required",
        "stale": "invalid_token",
        "fresh": "invalid_token",
    },
    "any": {"none": "authorization_required"},
}
KINDS = ["none", "refresh", "stale", "fresh"]


def token_of(api, user, kind):
    """Return a token of this kind. An access token from /refresh is stale, which is: not fresh."""
    if kind == "stale":
        return api.post("/refresh", user.refresh).json()["access_token"]
    return {"none": None, "refresh": user.refresh, "fresh": user.access}[kind]


def send(api, route, token, todo=None):
    """Send a well-formed request to a route, for this todo if the route has one."""
    path = route.path.replace(MISSING, todo["id"] if todo else MISSING)
    return api.request(route.method, path, token, json=route.body)


# Tokens.


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("route", PROTECTED, ids=str)
def test_route_accepts_exactly_the_tokens_that_it_is_for(api, database, alice, route, kind):
    todo = alice.add()
    token = token_of(api, alice, kind)
    before = stored(database)
    response = send(api, route, token, todo)
    error = REFUSED[route.token].get(kind)
    if error:
        assert_error(response, 401, error)
        assert stored(database) == before
    else:
        assert response.status_code in (200, 201), response.text
        assert_headers(response)


def log_out(api, user):
    return api.post("/logout", user.access)


@pytest.mark.smoke
@pytest.mark.parametrize("end_session", [log_out, change_password, delete_user])
def test_tokens_of_an_ended_session_are_refused_on_every_route(
    api, database, alice, bob, end_session
):
    stale = token_of(api, alice, "stale")
    assert end_session(api, alice).status_code == 200
    before = stored(database)
    for route in PROTECTED:
        for kind, token in (("fresh", alice.access), ("stale", stale), ("refresh", alice.refresh)):
            if kind not in REFUSED[route.token]:
                assert_error(send(api, route, token), 401, "token_revoked")
    assert stored(database) == before
    assert api.get("/todos", bob.access).status_code == 200


# Other users.


OWNED = [route for route in ROUTES if "alice" in route.path or MISSING in route.path]


@pytest.mark.smoke
@pytest.mark.parametrize("route", OWNED, ids=str)
def test_stranger_finds_nothing_of_another_user(api, database, alice, bob, route):
    """The response is the same as for what does not exist."""
    todo = alice.add()
    before = stored(database)
    response = send(api, route, bob.access, todo)
    missing = api.request(
        route.method, route.path.replace("alice", "unknown"), bob.access, json=route.body
    )
    assert_error(response, 404, "not_found")
    assert (response.content, response.headers) == (missing.content, missing.headers)
    assert stored(database) == before


NOT_IDS = ["1", "x" * 24, MISSING[:-1], MISSING + "0", MISSING[:-1] + "g", "%20" + MISSING]
NOT_IDS += ["{}", "$where", "é" * 12, "%00" * 12, "%ff" * 12]


@pytest.mark.parametrize("not_id", NOT_IDS)
def test_id_that_is_not_an_id_looks_missing(api, alice, not_id):
    for method in ("GET", "PUT", "DELETE"):
        response = api.request(method, f"/todos/{not_id}", alice.access, json={"name": "x"})
        assert_error(response, 404, "not_found", "Todo not found.")


# What is not a route.


def test_list_of_routes_has_every_url_and_method():
    """A route that is missing from the list would be left out of all tests above."""
    adapter = app.url_map.bind("")
    listed = {(adapter.match(route.path, route.method)[0], route.method) for route in ROUTES}
    existing = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    assert listed == existing


UNKNOWN = ["/", "/todo", "/todos/", "/user", "/user/", "/user/a/b", "/user//alice", "/static/x"]
UNKNOWN += ["/%00", "/%ff", "/Todos", "/todos/x/y"]


@pytest.mark.smoke
@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_url_gives_404(api, path):
    for method in ("GET", "POST", "PATCH"):
        assert_error(api.request(method, path), 404, "not_found")


METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]


@pytest.mark.smoke
@pytest.mark.parametrize("path", PATHS)
def test_wrong_method_gives_405_that_names_the_allowed_ones(api, path):
    allowed = {route.method for route in ROUTES if route.path == path}
    for method in METHODS:
        if method not in allowed:
            response = api.request(method, path)
            assert_error(response, 405, "method_not_allowed")
            assert set(response.headers["Allow"].split(", ")) - {"HEAD"} == allowed


def test_head_gives_the_status_and_headers_of_get(api, alice):
    with_token, without = api.request("HEAD", "/todos", alice.access), api.request("HEAD", "/todos")
    assert (with_token.status_code, without.status_code) == (200, 401)
    for response in (with_token, without):
        assert_headers(response)
        assert response.content == b""
