"""The tests of the book's exercises. pytest runs them only if you name this file, for example

    python -m pytest tests/api/exercises.py -k delete_done

They fail until you have solved the exercise: see "Exercises" in resources/README.md.
"""

import pytest
from support.clients import MISSING, User, assert_error, at_once, short

from app import app


@pytest.fixture
def carol(api):
    """A user who has registered, because a registration creates the indexes."""
    return User(api, "carol")


def names_of(todos):
    """Return the names of todos, in order."""
    return [todo["name"] for todo in todos]


# Delete all that is done.


def test_delete_done_deletes_what_is_done_and_nothing_else(api, database, alice, bob):
    for user in (alice, bob):
        user.add("milk", done=True)
        user.add("bread", done=True)
        user.add("eggs")
    response = api.delete("/todos?done=true", alice.access)
    assert (response.status_code, response.json()) == (200, {"message": "Deleted.", "deleted": 2})
    assert names_of(api.get("/todos", alice.access).json()["todos"]) == ["eggs"]
    assert names_of(api.get("/todos", bob.access).json()["todos"]) == ["milk", "bread", "eggs"]
    # A repeated request does no harm.
    response = api.delete("/todos?done=true", alice.access)
    assert (response.status_code, response.json()) == (200, {"message": "Deleted.", "deleted": 0})


@pytest.mark.parametrize("query", ["", "?done=false", "?done=1", "?done=true&done=true", "?all=1"])
def test_delete_done_requires_exactly_that(api, database, alice, query):
    alice.add(done=True)
    assert_error(api.delete(f"/todos{query}", alice.access), 400, "bad_request")
    assert database.todos.count_documents({}) == 1


def test_delete_done_requires_an_access_token(api, database, alice):
    alice.add(done=True)
    assert_error(api.delete("/todos?done=true"), 401, "authorization_required")
    assert_error(api.delete("/todos?done=true", alice.refresh), 401, "invalid_token")
    assert database.todos.count_documents({}) == 1


# A due date.

NOT_DATES = ["2026-02-30", "2026-13-01", "26-12-24", "2026-1-1", "2026-12-24 ", "tomorrow", ""]
NOT_DATES += ["２０２６-12-24", 20261224, True, ["2026-12-24"]]


def test_due_date_can_be_set_changed_and_removed(api, alice):
    assert alice.add()["due"] is None
    todo = alice.add("taxes", due="2028-02-29")
    assert todo["due"] == "2028-02-29"
    for due in ("2026-12-24", None):
        changed = api.put(f"/todos/{todo['id']}", alice.access, json={"due": due})
        assert changed.json() == {**todo, "due": due}


@pytest.mark.parametrize("due", NOT_DATES, ids=short)
def test_due_date_that_is_not_a_date_gives_400(api, database, alice, due):
    response = api.post("/todos", alice.access, json={"name": "x", "due": due})
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"due"}
    assert "%" not in response.json()["message"]["due"]
    assert database.todos.count_documents({}) == 0


def test_due_date_of_a_todo_from_before_is_null(api, database, alice):
    todo = alice.add()
    database.todos.update_one({}, {"$unset": {"due": ""}})
    assert api.get(f"/todos/{todo['id']}", alice.access).json()["due"] is None


def test_due_date_filters_the_list(api, alice, bob):
    alice.add("no day")
    alice.add("another day", due="2026-12-25")
    bob.add("not alice's", due="2026-12-24")
    wanted = [alice.add(str(number), due="2026-12-24") for number in range(3)]
    first = api.get("/todos?due=2026-12-24&limit=2", alice.access).json()
    second = api.get(first["next"], alice.access).json()
    assert first["todos"] + second["todos"] == wanted
    assert second["next"] is None
    assert_error(api.get("/todos?due=tomorrow", alice.access), 400, "bad_request")


# CORS.

ORIGIN = "https://todos.example"
# What looks like it, and is not.
OTHER_ORIGINS = ["https://evil.example", "http://todos.example", "https://todos.example.evil"]
OTHER_ORIGINS += ["https://todos.example:8000", "https://sub.todos.example", "null", ""]


@pytest.fixture
def cors(monkeypatch):
    """The setting: this origin is allowed, and no other."""
    monkeypatch.setitem(app.config, "CORS_ORIGIN", ORIGIN)


def preflight(api, origin, path="/todos", method="POST"):
    """Send what a browser sends before a request of another site's script."""
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers["Access-Control-Request-Headers"] = "authorization,content-type"
    return api.request("OPTIONS", path, headers=headers)


def cors_headers(response):
    """Return the headers that are for browsers alone, with their values as sets."""
    return {
        name.lower(): set(value.lower().replace(" ", "").split(","))
        for name, value in response.headers.items()
        if name.lower().startswith("access-control-")
    }


@pytest.mark.parametrize("path", ["/login", "/todos", f"/todos/{MISSING}", "/user/alice"])
def test_cors_preflight_of_the_origin_is_allowed(api, cors, path):
    response = preflight(api, ORIGIN, path)
    assert response.status_code == 204
    assert response.content == b""
    headers = cors_headers(response)
    assert headers["access-control-allow-origin"] == {ORIGIN}
    assert headers["access-control-allow-methods"] == {"get", "post", "put", "delete"}
    assert headers["access-control-allow-headers"] == {"authorization", "content-type"}
    assert "access-control-allow-credentials" not in headers


def test_cors_headers_are_on_every_response_to_the_origin(api, cors, alice):
    headers = {"Origin": ORIGIN}
    responses = [
        api.get("/todos", alice.access, headers=headers),
        api.post("/todos", alice.access, json={"name": "milk"}, headers=headers),
        api.post("/todos", alice.access, json={}, headers=headers),
        api.post("/todos", alice.access, data="x" * 70_000, headers=headers),
        api.get("/todos", headers=headers),
        api.get("/unknown", headers=headers),
        api.request("PATCH", "/todos", headers=headers),
    ]
    assert [response.status_code for response in responses] == [200, 201, 400, 413, 401, 404, 405]
    for response in responses:
        # A script cannot read an error either, without this header.
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        # Nor these two, if they are not named.
        exposed = cors_headers(response)["access-control-expose-headers"]
        assert exposed == {"location", "retry-after"}
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_cors_gives_another_origin_nothing(api, cors, alice, origin):
    refused = preflight(api, origin)
    assert_error(refused, 405, "method_not_allowed")
    response = api.get("/todos", alice.access, headers={"Origin": origin})
    assert response.status_code == 200
    assert cors_headers(refused) == cors_headers(response) == {}


def test_cors_leaves_other_options_requests_alone(api, cors):
    assert_error(
        api.request("OPTIONS", "/todos", headers={"Origin": ORIGIN}), 405, "method_not_allowed"
    )


def test_cors_is_off_without_the_setting(api):
    assert app.config["CORS_ORIGIN"] == ""
    for origin in (ORIGIN, ""):
        refused = preflight(api, origin)
        assert_error(refused, 405, "method_not_allowed")
        assert cors_headers(refused) == {}


# A key that makes a repeated POST safe.

NOT_KEYS = ["", "two words", "a,b", "x" * 65]


def add_with_key(api, user, key, name="milk"):
    """Send POST /todos with this key."""
    headers = {"Idempotency-Key": key}
    return api.post("/todos", user.access, json={"name": name}, headers=headers)


def test_idempotency_key_makes_a_repeated_post_safe(api, database, carol):
    first = add_with_key(api, carol, "key-1")
    assert first.status_code == 201
    assert "key-1" not in first.text
    again = add_with_key(api, carol, "key-1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert database.todos.count_documents({}) == 1


def test_idempotency_key_admits_one_of_many_concurrent_posts(api, database, carol):
    for number in range(5):
        key = f"key-{number}"
        responses = at_once(8, lambda key=key: add_with_key(api, carol, key))
        assert {response.status_code for response in responses} == {201}
        assert len({response.json()["id"] for response in responses}) == 1
    assert database.todos.count_documents({}) == 5


def test_idempotency_key_belongs_to_one_user(api, database, carol, bob):
    keys = [(carol, "key-1"), (carol, "key-2"), (bob, "key-1")]
    ids = {add_with_key(api, user, key).json()["id"] for user, key in keys}
    assert len(ids) == database.todos.count_documents({}) == 3


def test_idempotency_key_is_optional(api, database, carol):
    assert carol.add("milk")["id"] != carol.add("milk")["id"]


@pytest.mark.parametrize("key", NOT_KEYS, ids=short)
def test_idempotency_key_that_is_malformed_gives_400(api, database, carol, key):
    assert_error(add_with_key(api, carol, key), 400, "bad_request")
    assert database.todos.count_documents({}) == 0


def test_idempotency_key_of_an_ended_session_deletes_nothing(api, database, carol):
    todo = add_with_key(api, carol, "key-1").json()
    api.post("/logout", carol.access)
    assert_error(add_with_key(api, carol, "key-1"), 401, "token_revoked")
    assert str(database.todos.find_one()["_id"]) == todo["id"]


# A version, and If-Match.


def put(api, user, todo, tag, name):
    """Change the name of a todo, if its version is still the one of this tag."""
    headers = {"If-Match": tag}
    return api.put(f"/todos/{todo['id']}", user.access, json={"name": name}, headers=headers)


def assert_precondition_failed(response):
    assert response.status_code == 412, response.text
    assert response.json().keys() == {"message", "error"}
    assert response.json()["error"] == "precondition_failed"


def test_if_match_lets_only_the_current_version_be_changed(api, alice):
    response = api.post("/todos", alice.access, json={"name": "milk"})
    todo, old = response.json(), response.headers["ETag"]
    # RFC 9110, 8.8.3: an entity tag is in double quotation marks.
    assert old[0] == old[-1] == '"'
    assert api.get(f"/todos/{todo['id']}", alice.access).headers["ETag"] == old

    changed = put(api, alice, todo, old, "bread")
    assert (changed.status_code, changed.json()["name"]) == (200, "bread")
    new = changed.headers["ETag"]
    assert new != old
    assert_precondition_failed(put(api, alice, todo, old, "eggs"))
    read = api.get(f"/todos/{todo['id']}", alice.access)
    assert (read.json()["name"], read.headers["ETag"]) == ("bread", new)
    assert put(api, alice, todo, new, "eggs").status_code == 200


def test_if_match_admits_one_of_many_concurrent_changes(api, alice):
    todo = alice.add()
    for _ in range(5):
        tag = api.get(f"/todos/{todo['id']}", alice.access).headers["ETag"]
        responses = at_once(8, lambda tag=tag: put(api, alice, todo, tag, "bread"))
        codes = sorted(response.status_code for response in responses)
        assert codes == [200] + [412] * 7


def test_if_match_is_optional(api, alice):
    todo = alice.add()
    tag = api.get(f"/todos/{todo['id']}", alice.access).headers["ETag"]
    assert api.put(f"/todos/{todo['id']}", alice.access, json={"done": True}).status_code == 200
    # A change without it changes the version as well.
    assert_precondition_failed(put(api, alice, todo, tag, "bread"))


def test_if_match_works_for_a_todo_from_before(api, database, alice):
    todo = alice.add()
    # What is left are the fields that a todo had before the exercise.
    kept = {"_id", "owner_id", "name", "description", "done", "created_at"}
    fields = {name: "" for name in database.todos.find_one() if name not in kept}
    if fields:
        database.todos.update_one({}, {"$unset": fields})
    tag = api.get(f"/todos/{todo['id']}", alice.access).headers["ETag"]
    assert put(api, alice, todo, tag, "bread").status_code == 200
    assert_precondition_failed(put(api, alice, todo, tag, "eggs"))


@pytest.mark.parametrize("tag", ["1", '"x"', 'W/"0"', '"-1"', '"' + "9" * 5000 + '"'], ids=short)
def test_if_match_that_is_not_a_version_gives_412(api, alice, tag):
    assert_precondition_failed(put(api, alice, alice.add(), tag, "bread"))


def test_if_match_tells_a_stranger_nothing(api, alice, bob):
    todo = alice.add()
    tag = api.get(f"/todos/{todo['id']}", alice.access).headers["ETag"]
    for wanted in (todo, {"id": MISSING}):
        for value in (tag, '"x"'):
            assert_error(put(api, bob, wanted, value, "bread"), 404, "not_found", "Todo not found.")
