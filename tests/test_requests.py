"""What holds for every request and response, whatever the resource."""

import http.client
import json

import pytest
from helpers import ROUTES, assert_error

WITH_TOKEN = [route for route in ROUTES if route[1] not in ("/register", "/login")]
WITH_BODY = ["/register", "/login", "/todos"]
ALICE = {"username": "alice", "password": "12345678"}


@pytest.mark.parametrize(
    "path",
    ["/", "/todo", "/todos/", "/user", "/user/", "/user/a/b", "/user//alice", "/static/x", "/%00"],
)
def test_unknown_url_is_a_json_404(api, path):
    assert_error(api.get(path), 404, "not_found")


METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]
NOT_ALLOWED = [
    (method, path)
    for path in sorted({path for _, path in ROUTES})
    for method in METHODS
    if (method, path) not in ROUTES
]


@pytest.mark.parametrize(("method", "path"), NOT_ALLOWED)
def test_other_methods_are_a_405_that_names_the_right_ones(api, method, path):
    allowed = {verb for verb, url in ROUTES if url == path}
    response = api.request(method, path)
    assert_error(response, 405, "method_not_allowed")
    assert {verb.strip() for verb in response.headers["Allow"].split(",")} - {"HEAD"} == allowed


@pytest.mark.parametrize(("method", "path"), WITH_TOKEN)
def test_no_token_is_a_401(api, method, path):
    assert_error(api.request(method, path), 401, "authorization_required")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_body_over_64_kib_is_a_413(api, alice, method, path):
    body = json.dumps({"name": "x" * 65_536})
    response = api.request(
        method, path, alice.access, data=body, headers={"Content-Type": "application/json"}
    )
    assert_error(response, 413, "request_too_large")


def test_body_of_64_kib_is_read(api, alice):
    body = json.dumps({"name": "x"}).ljust(65_536)
    response = api.post(
        "/todos", alice.access, data=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201


def test_all_of_a_body_is_read_before_a_413(api, alice):
    """A client that is still sending must not see a reset."""
    assert_error(api.post("/todos", alice.access, data=b"x" * 20_000_000), 413, "request_too_large")


def send(api, alice, path, **body):
    return api.post(path, alice.access if path == "/todos" else None, **body)


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"username"',
        b"1",
        b"true",
        b"null",
        b"NaN",
        b'{"name": NaN}',
        b'[["username", "alice"]]',
        b"{'name': 'x'}",
        b'{"name": "\xff"}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"name":' * 7_000,
        b'{"name": {"$oid": "x"}}',
        b'{"name": {"$date": 1e999}}',
        b"\x00",
    ],
)
def test_json_that_is_no_object_of_fields_is_a_400(api, alice, path, body):
    response = send(api, alice, path, data=body, headers={"Content-Type": "application/json"})
    assert_error(response, 400, "bad_request")


@pytest.mark.parametrize("path", WITH_BODY)
def test_no_body_names_what_is_missing(api, alice, path):
    message = (
        {"name": "Missing."}
        if path == "/todos"
        else {"username": "Missing.", "password": "Missing."}
    )
    assert_error(send(api, alice, path), 400, "bad_request", message)


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/vnd.api+json", "nonsense", ""]
)
def test_other_content_types_are_a_415(api, alice, path, content_type):
    response = send(api, alice, path, data=b"name=x", headers={"Content-Type": content_type})
    assert_error(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["json", "urlencoded", "multipart"])
def test_json_and_both_kinds_of_form_are_read(api, kind):
    def body(fields):
        return {
            "json": {"json": fields},
            "urlencoded": {"data": fields},
            "multipart": {"files": {name: (None, value) for name, value in fields.items()}},
        }[kind]

    fields = {"username": "carol", "password": " pässwörd+&=% "}
    assert api.post("/register", **body(fields)).status_code == 201
    assert api.post("/login", **body(fields)).status_code == 200
    # Each kind gives the very same password.
    assert api.post("/login", json=fields).status_code == 200


def test_json_with_a_charset_or_a_byte_order_mark_is_read(api):
    body = b"\xef\xbb\xbf" + json.dumps(ALICE).encode()
    response = api.post(
        "/register", data=body, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"username=alice&password=%ff%ff%ff%ff%ff%ff%ff%ff"),
        (
            "application/x-www-form-urlencoded",
            b"username=alice&password=\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="username"\r\n\r\nalice\r\n'
            b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n'
            b"\xff\xff\xff\xff\xff\xff\xff\xff\r\n--b--\r\n",
        ),
        ("multipart/form-data", b"username=alice&password=12345678"),
        ("multipart/form-data; boundary=b", b"--b\r\n"),
    ],
)
def test_form_that_is_not_utf8_or_cannot_be_parsed_is_a_400(api, database, content_type, body):
    assert_error(
        api.post("/register", data=body, headers={"Content-Type": content_type}), 400, "bad_request"
    )
    assert not list(database.users.find())


def test_form_fields_given_twice_and_files_are_a_400(api, alice):
    twice = api.post(
        "/todos",
        alice.access,
        data=[("name", "a"), ("name", "b"), ("done", "true"), ("done", "true")],
    )
    assert_error(
        twice, 400, "bad_request", {"name": "Must be a string.", "done": "Must be true or false."}
    )
    file = api.post(
        "/todos", alice.access, files={"name": ("name.txt", "x"), "other": ("o.txt", "x")}
    )
    assert_error(file, 400, "bad_request", {"name": "Must be a string.", "other": "Unknown field."})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_done_in_a_form_is_true_or_false(api, alice, text, value):
    assert (
        api.post("/todos", alice.access, data={"name": "x", "done": text}).json()["done"] is value
    )


@pytest.mark.parametrize("text", ["True", "1", "yes", "", " true", "null"])
def test_any_other_word_for_done_in_a_form_is_a_400(api, alice, text):
    response = api.post("/todos", alice.access, data={"name": "x", "done": text})
    assert_error(response, 400, "bad_request", {"done": "Must be true or false."})


@pytest.mark.parametrize(
    "value", [1, 0, 1.5, True, None, [], ["alice123"], {}, {"$gt": ""}, 10**400]
)
def test_nothing_is_converted_to_a_string(api, database, value):
    message = {"username": "Must be a string.", "password": "Must be a string."}
    for path in ("/register", "/login"):
        assert_error(
            api.post(path, json={"username": value, "password": value}), 400, "bad_request", message
        )
    assert not list(database.users.find())


@pytest.mark.parametrize("path", WITH_BODY)
def test_lone_surrogates_are_a_400(api, alice, path):
    fields = (
        {"name": "\ud800"}
        if path == "/todos"
        else {"username": "\ud800", "password": "12345678\udfff"}
    )
    response = send(api, alice, path, json=fields)  # In JSON: "\ud800".
    assert_error(
        response, 400, "bad_request", dict.fromkeys(fields, response.json()["message"].popitem()[1])
    )


def test_every_bad_field_is_named_at_once(api, database):
    response = api.post(
        "/register", json={"username": "-", "password": "short", "admin": True, "\ud800": 1}
    )
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"username", "password", "admin", "\ud800"}
    assert all(
        isinstance(sentence, str) and sentence for sentence in response.json()["message"].values()
    )
    assert not list(database.users.find())


def test_answers_are_one_line_of_json(api, alice):
    for response in (
        api.get("/todos", alice.access),
        api.get("/nowhere"),
        api.post("/login", json={}),
    ):
        assert response.headers["Content-Type"] == "application/json"
        assert response.text.endswith("\n") and response.text.count("\n") == 1


def test_answers_are_json_whatever_the_client_accepts(api, alice):
    response = api.get("/todos", alice.access, headers={"Accept": "text/html, image/png;q=0.5"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")


def test_head_is_get_without_a_body(api, alice):
    assert (
        api.request("HEAD", "/todos", alice.access).status_code,
        api.request("HEAD", "/todos").status_code,
    ) == (
        200,
        401,
    )


def test_body_in_chunks_gets_an_answer(api, alice):
    def chunks():
        yield b'{"name": '
        yield b'"milk"}'

    response = api.post(
        "/todos", alice.access, data=chunks(), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201 or "Content-Length" in response.json()["message"]


def test_host_header_that_is_no_host_is_answered_in_json(api):
    connection = http.client.HTTPConnection("127.0.0.1", api.port)
    connection.request("GET", "/todos", headers={"Host": "a b/c"})
    response = connection.getresponse()
    assert response.status in (400, 401)
    assert json.loads(response.read())["error"] in ("bad_request", "authorization_required")
