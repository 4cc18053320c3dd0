"""Requests and responses, whatever the resource: JSON bodies, their size and type, and crashes."""

import gzip
import json
import re
from datetime import datetime

import pytest
from bson import ObjectId
from support.clients import ROUTES, assert_error, short, timed

from app import app

JSON = "application/json"
KIB_64 = 64 * 1024
ONCE = "Must be given only once."

# The routes that read a body.
WITH_BODY = [route for route in ROUTES if route.body]
POSTS = [route for route in WITH_BODY if route.method == "POST"]


def send(api, user, route, body=None, content_type=JSON, **headers):
    """Send these bytes to a route that reads a body, as a user who may."""
    headers |= {"Content-Type": content_type} if content_type is not None else {}
    token = user.access if route.token else None
    return api.request(route.method, route.path, token, data=body, headers=headers)


def post_todo(api, user, body, content_type=JSON, **headers):
    """Send these bytes to POST /todos."""
    headers |= {"Content-Type": content_type} if content_type is not None else {}
    return api.post("/todos", user.access, data=body, headers=headers)


# Responses.


def test_response_is_one_line_of_json(api, alice):
    for response in (api.get("/todos", alice.access), api.get("/nowhere"), api.get("/todos")):
        assert response.text.endswith("\n")
        assert response.text.count("\n") == 1


def test_response_is_json_whatever_the_client_accepts(api, alice):
    response = api.get("/todos", alice.access, headers={"Accept": "text/html, image/png;q=0.5"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == JSON


def test_long_accept_takes_no_longer_than_a_short_one(api, alice):
    """Flask-RESTful would read all of it, and its process would do nothing else at that time."""

    def seconds(accept):
        headers = {"Accept": accept}
        sent = [timed(lambda: api.get("/todos", alice.access, headers=headers)) for _ in range(10)]
        # The fastest one, because other programs only add to the time.
        return min(took for took, _ in sent)

    assert seconds("a," * 10_000) < 3 * seconds("a")


@pytest.mark.parametrize("name", ["websocket", "WebSocket", "h2c"])
def test_offer_of_another_protocol_is_ignored(api, alice, name):
    headers = {"Connection": "Upgrade", "Upgrade": name}
    assert api.get("/todos", alice.access, headers=headers).status_code == 200
    assert_error(api.get("/todos", headers=headers), 401, "authorization_required")
    assert_error(api.get("/nowhere", headers=headers), 404, "not_found")


def test_response_holds_text_as_utf8_and_not_as_escapes(api, alice):
    """As escapes, a page of long todos would take three times the memory."""
    todo = alice.add("\U0001f95b молоко")
    for path in ("/todos", f"/todos/{todo['id']}"):
        assert todo["name"].encode() in api.get(path, alice.access).content


@pytest.mark.parametrize("host", ["a b/c", "", "x" * 1000, "[", "é", "a,b"])
def test_malformed_host_gives_401_or_400_as_json(api, host):
    response = api.get("/todos", headers={"Host": host.encode()})
    code = response.json()["error"]
    assert_error(response, {"bad_request": 400, "authorization_required": 401}[code], code)


def test_host_that_werkzeug_rejects_gives_400_in_words_of_the_api(api):
    response = api.get("/todos", headers={"Host": "a..b"})
    assert_error(response, 400, "bad_request", "The request cannot be understood.")


# Large responses: at most 20 of them at the same time in a process.


def test_21st_large_response_gives_503_until_one_has_been_sent(in_process, database, bob):
    todo = {"owner_id": ObjectId(bob.id), "name": "x", "done": False}
    todo |= {"description": "x" * 10_000, "created_at": datetime(2026, 1, 1)}
    database.todos.insert_many([{**todo} for _ in range(40)])
    client = app.test_client()

    def get(limit):
        # Without `buffered`, the response is in memory until it is closed.
        headers = {"Authorization": f"Bearer {bob.access}"}
        return client.get(f"/todos?limit={limit}", headers=headers)

    held = [get(40) for _ in range(20)]
    assert {response.status_code for response in held} == {200}
    busy = in_process.get("/todos?limit=40", bob.access)
    assert_error(busy, 503, "server_busy")
    assert in_process.get("/todos?limit=10", bob.access).status_code == 200
    held.pop().close()
    assert in_process.get("/todos?limit=40", bob.access).status_code == 200
    for response in held:
        response.close()


# JSON.


NOT_OBJECTS = [b'"username"', b"1", b"true", b"null", b"NaN", b'[["username", "alice"]]']
NOT_OBJECTS += [b"{", b"\x00", b'{"name":' * 7_000]
# Objects, but of wrong fields.
NOT_OBJECTS += [b'{"name": NaN}', b'{"name": {"$oid": "x"}}', b'{"name": {"$date": 1e999}}']


@pytest.mark.parametrize("body", NOT_OBJECTS, ids=short)
def test_json_that_is_not_an_object_of_fields_gives_400(api, alice, body):
    for route in WITH_BODY:
        assert_error(send(api, alice, route, body), 400, "bad_request")


# Each with a regular expression for what the message says.
MALFORMED = {
    "empty": (b"", "empty"),
    "not an object": (b"[]", "object"),
    "syntax error": (b'{"name": "x"\n "done": true}', "line 2, column 2"),
    "single quotes": (b"{'name': 'x'}", "double quotes.*line 1, column 2"),
    # Python 3.13 and later names the comma, earlier ones the brace behind it.
    "trailing comma": (b'{"name": "x",}', "line 1, column 1[34]"),
    "no end": (b'{"name": "x', "line 1, column 10"),
    "cp1252": ('{"name": "Käse"}'.encode("cp1252"), "UTF-8.*byte 12"),
    "long number": (b'{"name": ' + b"9" * 5000 + b"}", "number"),
    # Python 3.14 reads deeper than earlier versions, and finds that the end is missing.
    "deep": (b"[" * 60_000, "brackets|line 1, column"),
}


@pytest.mark.smoke
@pytest.mark.parametrize(("body", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_gives_400_that_says_what_is_wrong(api, alice, body, message):
    response = post_todo(api, alice, body)
    assert_error(response, 400, "bad_request")
    assert re.search(message, response.json()["message"]), response.text


# With a byte order mark, and without one. PowerShell and Windows editors write such files.
UTF_16_AND_32 = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", UTF_16_AND_32)
@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        (JSON, '{"name": "milk"}'),
        (JSON, '{"name": "молоко"}'),
        (JSON, "{}"),
        ("application/x-www-form-urlencoded", "name=milk"),
        ("multipart/form-data; boundary=b", "--b\r\n"),
    ],
)
def test_body_in_utf16_or_utf32_gives_400_that_names_it(
    api, database, alice, encoding, content_type, text
):
    response = post_todo(api, alice, text.encode(encoding), content_type)
    assert_error(response, 400, "bad_request")
    looks_like = f"is not UTF-8 (this looks like {encoding[:6].upper()}). Send UTF-8."
    assert looks_like in response.json()["message"]
    assert not list(database.todos.find())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "Application/JSON"]
)
def test_json_with_charset_or_byte_order_mark_is_read(api, database, alice, mark, content_type):
    body = mark + '{"name": "молоко"}'.encode()
    assert post_todo(api, alice, body, content_type).status_code == 201
    assert [todo["name"] for todo in database.todos.find()] == ["молоко"]


OTHER_TYPES = [1, 0, 1.5, True, None, [], ["alice123"], {}, {"$gt": ""}, 10**400]


@pytest.mark.parametrize("value", OTHER_TYPES, ids=short)
@pytest.mark.parametrize("path", ["/register", "/login"])
def test_value_that_is_not_a_string_gives_400(api, database, path, value):
    response = api.post(path, json={"username": value, "password": value})
    message = {"username": "Must be a string.", "password": "Must be a string."}
    assert_error(response, 400, "bad_request", message)
    assert not list(database.users.find())


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_lone_surrogate_gives_400(api, alice, route):
    # In JSON this is the escape \ud800.
    fields = dict.fromkeys(route.body, "12345678\ud800")
    response = send(api, alice, route, json.dumps(fields))
    message = "Must be valid Unicode, without lone surrogates."
    assert_error(response, 400, "bad_request", dict.fromkeys(fields, message))


@pytest.mark.smoke
def test_every_bad_field_is_named(api, database):
    body = {"username": "-", "password": "short", "admin": True, "\ud800": 1}
    response = api.post("/register", json=body)
    assert_error(response, 400, "bad_request")
    message = response.json()["message"]
    assert message.keys() == body.keys()
    for sentence in message.values():
        assert isinstance(sentence, str)
        assert sentence.endswith(".")
    assert not list(database.users.find())


def test_password_that_is_the_username_is_named_with_the_other_bad_fields(api, alice):
    expected = {"password": "Must not be the username.", "x": "Unknown field."}
    body = {"username": "mike.smith", "password": "mike.smith", "x": 1}
    assert_error(api.post("/register", json=body), 400, "bad_request", expected)
    del body["username"]
    response = api.put("/user/mike.smith", alice.access, json=body)
    expected["current_password"] = "Missing."
    assert_error(response, 400, "bad_request", expected)


def test_error_holds_the_first_100_characters_of_a_bad_name(api, alice):
    name = "x" * 60_000
    response = api.post("/todos", alice.access, json={"name": "milk", name: 1})
    assert_error(response, 400, "bad_request", {"x" * 100: "Unknown field."})
    response = api.get(f"/todos?{name[:8000]}=1&{name[:8000]}=2", alice.access)
    assert_error(response, 400, "bad_request", {"x" * 100: "Must be given only once."})


@pytest.mark.parametrize(("unknown", "named"), [(19, 20), (20, 20), (2000, 20)])
def test_error_names_at_most_20_bad_fields(api, alice, unknown, named):
    fields = {f"x{number}": 1 for number in range(unknown)}
    query = "&".join(f"{name}=1" for name in fields)
    bodies = [
        api.post("/todos", alice.access, json=fields),
        api.post("/todos", alice.access, data=dict(list(fields.items())[:1000])),
    ]
    for response in bodies:
        assert_error(response, 400, "bad_request")
        assert len(response.json()["message"]) == named
        # What is missing comes first.
        assert response.json()["message"]["name"] == "Missing."
    response = api.get(f"/todos?{query}", alice.access)
    assert_error(response, 400, "bad_request")
    assert len(response.json()["message"]) == min(unknown, 20)


REPEATED = [
    b'{"name": 5, "done": true, "name": "b", "done": true}',
    b'{"name": "a", "n\\u0061me": "a", "done": true, "done": null}',
]


@pytest.mark.parametrize("body", REPEATED, ids=["twice", "as an escape"])
def test_repeated_key_in_json_gives_400_that_names_it(api, database, alice, body):
    response = post_todo(api, alice, body)
    assert_error(response, 400, "bad_request", {"name": ONCE, "done": ONCE})
    assert not list(database.todos.find())


@pytest.mark.parametrize("path", ["/register", "/login"])
def test_repeated_username_gives_400_that_names_it(api, database, path):
    body = b'{"username": "alice", "password": "a new password", "username": "bob"}'
    response = api.post(path, data=body, headers={"Content-Type": JSON})
    assert_error(response, 400, "bad_request", {"username": ONCE})
    assert not list(database.users.find())


def test_repeated_key_in_a_query_gives_400_that_names_it(api, alice):
    response = api.get("/todos?limit=1&done=true&limit=1&done=false&x=1&x=2", alice.access)
    assert_error(response, 400, "bad_request", {"limit": ONCE, "done": ONCE, "x": ONCE})


# The type and the encoding of a body.


@pytest.mark.smoke
@pytest.mark.parametrize("route", POSTS, ids=str)
def test_request_without_a_body_gives_400_that_names_what_is_missing(api, alice, route):
    response = send(api, alice, route, content_type=None)
    assert_error(response, 400, "bad_request", dict.fromkeys(route.body, "Missing."))


OTHER_CONTENT_TYPES = [
    "text/plain",
    "text/json",
    "application/xml",
    "application/vnd.api+json",
    "application/json, application/json",
    "application/json,text/plain",
    "text/plain, application/json",
    "nonsense",
    "/",
    ";",
]


@pytest.mark.smoke
@pytest.mark.parametrize("content_type", OTHER_CONTENT_TYPES)
def test_body_of_another_content_type_gives_415_that_quotes_it(api, alice, content_type):
    response = post_todo(api, alice, b'{"name": "x"}', content_type)
    assert_error(response, 415, "unsupported_media_type")
    assert f"that arrived is {content_type!r}." in response.json()["message"]


@pytest.mark.parametrize("content_type", ["", None], ids=["empty", "none"])
def test_body_without_a_content_type_gives_415_that_says_so(api, alice, content_type):
    response = post_todo(api, alice, b'{"name": "x"}', content_type)
    assert_error(response, 415, "unsupported_media_type")
    assert response.json()["message"].endswith("There is none.")


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_every_route_with_a_body_refuses_another_content_type(api, database, alice, route):
    before = list(database.users.find())
    response = send(api, alice, route, json.dumps(route.body), "text/plain")
    assert_error(response, 415, "unsupported_media_type")
    assert list(database.users.find()) == before


def test_long_content_type_is_cut_in_the_415(api, alice):
    response = post_todo(api, alice, b"x", "x/" + "y" * 8000)
    assert_error(response, 415, "unsupported_media_type")
    assert len(response.json()["message"]) < 500


PLAIN = b'{"name": "milk"}'
COMPRESSED = {
    "compressed": ("gzip", gzip.compress(PLAIN)),
    "not compressed": ("gzip", PLAIN),
    "upper case": ("GZIP", PLAIN),
    "deflate": ("deflate", PLAIN),
    "br": ("br", PLAIN),
    "several": ("gzip, identity", PLAIN),
}


@pytest.mark.parametrize(("encoding", "body"), COMPRESSED.values(), ids=COMPRESSED)
@pytest.mark.parametrize("content_type", [JSON, "application/x-www-form-urlencoded"])
def test_body_with_a_content_encoding_gives_415(api, database, alice, content_type, encoding, body):
    response = post_todo(api, alice, body, content_type, **{"Content-Encoding": encoding})
    assert_error(response, 415, "unsupported_media_type")
    assert not list(database.todos.find())


@pytest.mark.parametrize("encoding", ["identity", "Identity", "identity "])
def test_body_with_content_encoding_identity_is_read(api, alice, encoding):
    response = post_todo(api, alice, PLAIN, **{"Content-Encoding": encoding})
    assert response.status_code == 201


# The size of a body.


@pytest.mark.parametrize("size", [len(PLAIN), KIB_64])
def test_body_of_up_to_64_kib_is_read(api, database, alice, size):
    assert post_todo(api, alice, PLAIN.ljust(size)).status_code == 201
    assert [todo["name"] for todo in database.todos.find()] == ["milk"]


@pytest.mark.smoke
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_body_over_64_kib_gives_413_on_every_route(api, database, alice, route):
    before = list(database.users.find())
    body = json.dumps(route.body or {}).ljust(KIB_64 + 1)
    headers = {"Content-Type": JSON}
    response = api.request(route.method, route.path, alice.access, data=body, headers=headers)
    assert_error(response, 413, "request_too_large")
    assert list(database.users.find()) == before
    assert not list(database.todos.find())
