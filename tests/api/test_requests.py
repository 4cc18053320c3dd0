"""What applies to every request and response, whatever the resource."""

import gzip
import http.client
import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import ERROR_CODES, ROUTES, assert_error, assert_headers, at_once, short
from support.processes import CLEAN

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
KIB_64 = 64 * 1024
ONCE = "Must be given only once."

CALLS = [(route.method, route.path) for route in ROUTES]
PATHS = sorted({path for _, path in CALLS})
# The paths whose POST reads a body.
WITH_BODY = ["/register", "/login", "/todos"]


@pytest.fixture(params=["server", "development_server"])
def each_server(request):
    """First the production server, then the development server."""
    return request.getfixturevalue(request.param)


def post(server, user, path, **options):
    """Send a POST, with a token where the path requires one."""
    return server.post(path, user.access if path == "/todos" else None, **options)


def post_todo(server, user, body, content_type=JSON, **headers):
    """Add a todo. `body` is bytes, or an iterator, which is sent in chunks."""
    headers |= {"Content-Type": content_type}
    return server.post("/todos", user.access, data=body, headers=headers)


def multipart(*fields):
    """Return the body of a multipart form with these (name, bytes) pairs."""
    parts = []
    for name, value in fields:
        parts.append(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode())
        parts.append(value + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


# URLs, methods and tokens.


UNKNOWN = ["/", "/todo", "/todos/", "/user", "/user/", "/user/a/b", "/user//alice", "/static/x"]
UNKNOWN += ["/%00"]


@pytest.mark.smoke
@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_url_gives_404(api, path):
    assert_error(api.get(path), 404, "not_found")


METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]
NOT_ALLOWED = [(method, path) for path in PATHS for method in METHODS]
NOT_ALLOWED = [route for route in NOT_ALLOWED if route not in CALLS]


@pytest.mark.smoke
@pytest.mark.parametrize(("method", "path"), NOT_ALLOWED)
def test_wrong_method_gives_405_and_names_the_allowed_ones(api, method, path):
    response = api.request(method, path)
    assert_error(response, 405, "method_not_allowed")
    allowed = {verb for verb, url in CALLS if url == path}
    assert set(response.headers["Allow"].split(", ")) - {"HEAD"} == allowed


WITH_TOKEN = [route for route in CALLS if route[1] not in ("/register", "/login")]


@pytest.mark.smoke
@pytest.mark.parametrize(("method", "path"), WITH_TOKEN)
def test_request_without_a_token_gives_401(api, method, path):
    assert_error(api.request(method, path), 401, "authorization_required")


def test_head_gives_the_status_and_headers_of_get(api, alice):
    with_token, without = api.request("HEAD", "/todos", alice.access), api.request("HEAD", "/todos")
    assert (with_token.status_code, without.status_code) == (200, 401)
    for response in (with_token, without):
        assert_headers(response)
        assert response.content == b""


# Responses.


@pytest.mark.smoke
def test_responses_of_every_status_have_the_same_headers(api, alice):
    user = {"username": "carol", "password": "a new password"}
    wrong = {"username": "carol", "password": "a wrong password"}
    responses = [
        api.get("/todos", alice.access),
        api.post("/register", json=user),
        api.post("/register", json=user),
        api.post("/login", json={}),
        api.get("/todos"),
        api.get("/nowhere"),
        api.delete("/login"),
        api.post("/login", data=b"x" * (KIB_64 + 1)),
        api.post("/login", data=b"x"),
        # The eleventh attempt is one too many.
        *[api.post("/login", json=wrong) for _ in range(11)],
        # More at the same time than there are hashing slots.
        *at_once(20, lambda: api.post("/register", json=user)),
    ]
    for response in responses:
        assert_headers(response)
    statuses = {response.status_code for response in responses}
    # A 500 is a bug.
    assert statuses == {200, 201, *ERROR_CODES.values()} - {500}


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_route_has_the_same_headers(api, alice, method, path):
    for token in (alice.access, alice.refresh, None):
        assert_headers(api.request(method, path, token))


def test_response_is_one_line_of_json(api, alice):
    for response in (api.get("/todos", alice.access), api.get("/nowhere"), api.get("/todos")):
        assert response.text.endswith("\n")
        assert response.text.count("\n") == 1


def test_response_is_json_whatever_the_client_accepts(api, alice):
    response = api.get("/todos", alice.access, headers={"Accept": "text/html, image/png;q=0.5"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == JSON


def test_malformed_host_header_gives_json(api):
    connection = http.client.HTTPConnection("127.0.0.1", api.port)
    connection.request("GET", "/todos", headers={"Host": "a b/c"})
    response = connection.getresponse()
    assert response.status in (400, 401)
    assert json.loads(response.read())["error"] in ("bad_request", "authorization_required")
    connection.close()


# JSON.


NOT_OBJECTS = [b"[]", b'"username"', b"1", b"true", b"null", b"NaN", b'[["username", "alice"]]']
NOT_OBJECTS += [b"{", b"\x00", b"[" * 60_000, b'{"name":' * 7_000]
NOT_OBJECTS += [b'{"name": ' + b"9" * 5000 + b"}"]
# Objects, but of wrong fields.
NOT_OBJECTS += [b'{"name": NaN}', b'{"name": {"$oid": "x"}}', b'{"name": {"$date": 1e999}}']


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("body", NOT_OBJECTS, ids=short)
def test_json_that_is_not_an_object_of_fields_gives_400(api, alice, path, body):
    response = post(api, alice, path, data=body, headers={"Content-Type": JSON})
    assert_error(response, 400, "bad_request")


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
    "utf-16": ('{"name": "x"}'.encode("utf-16"), "UTF-8.*byte 1"),
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


def test_json_with_charset_or_byte_order_mark_is_read(api):
    body = json.dumps({"username": "alice", "password": "a new password"}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    response = api.post("/register", data=b"\xef\xbb\xbf" + body, headers=headers)
    assert response.status_code == 201


OTHER_TYPES = [1, 0, 1.5, True, None, [], ["alice123"], {}, {"$gt": ""}, 10**400]


@pytest.mark.parametrize("value", OTHER_TYPES, ids=short)
@pytest.mark.parametrize("path", ["/register", "/login"])
def test_value_that_is_not_a_string_gives_400(api, database, path, value):
    response = api.post(path, json={"username": value, "password": value})
    message = {"username": "Must be a string.", "password": "Must be a string."}
    assert_error(response, 400, "bad_request", message)
    assert not list(database.users.find())


@pytest.mark.parametrize("path", WITH_BODY)
def test_lone_surrogate_gives_400(api, alice, path):
    # In JSON this is the escape \ud800.
    fields = {"username": "\ud800", "password": "12345678\udfff"}
    if path == "/todos":
        fields = {"name": "\ud800"}
    response = post(api, alice, path, json=fields)
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


# Forms.


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["json", "urlencoded", "multipart"])
def test_json_and_both_kinds_of_form_are_read(api, kind):
    fields = {"username": "carol", "password": " pässwörd+&=% "}
    body = {
        "json": {"json": fields},
        "urlencoded": {"data": fields},
        "multipart": {"files": {name: (None, value) for name, value in fields.items()}},
    }[kind]
    assert api.post("/register", **body).status_code == 201
    assert api.post("/login", **body).status_code == 200
    # The password is the same, however it is sent.
    assert api.post("/login", json=fields).status_code == 200


BYTES = b"\xff" * 8
BAD_FORMS = {
    "escaped bytes": (FORM, b"username=alice&password=" + b"%ff" * 8),
    "bytes": (FORM, b"username=alice&password=" + BYTES),
    "bytes in parts": (MULTIPART, multipart(("username", b"alice"), ("password", BYTES))),
    "no boundary": ("multipart/form-data", b"username=alice&password=a+new+password"),
    "no end": (MULTIPART, b"--b\r\n"),
}


@pytest.mark.parametrize(("content_type", "body"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_form_that_is_malformed_or_not_utf8_gives_400(api, database, content_type, body):
    response = api.post("/register", data=body, headers={"Content-Type": content_type})
    assert_error(response, 400, "bad_request")
    assert not list(database.users.find())


def test_file_in_a_form_gives_400(api, alice):
    files = {"name": ("name.txt", "x"), "other": ("other.txt", "x")}
    response = api.post("/todos", alice.access, files=files)
    message = {"name": "Must be a string.", "other": "Unknown field."}
    assert_error(response, 400, "bad_request", message)


@pytest.mark.parametrize(("text", "done"), [("true", True), ("false", False)])
def test_done_in_a_form_is_true_or_false(api, alice, text, done):
    response = api.post("/todos", alice.access, data={"name": "x", "done": text})
    assert response.json()["done"] is done


@pytest.mark.parametrize("text", ["True", "1", "yes", "", " true", "null"])
def test_any_other_done_in_a_form_gives_400(api, alice, text):
    response = api.post("/todos", alice.access, data={"name": "x", "done": text})
    assert_error(response, 400, "bad_request", {"done": "Must be true or false."})


# Repeated keys.


REPEATED = {
    "json": (JSON, b'{"name": 5, "done": true, "name": "b", "done": true}'),
    "json escape": (JSON, b'{"name": "a", "n\\u0061me": "a", "done": true, "done": null}'),
    "urlencoded": (FORM, b"name=a&name=b&done=true&done=true"),
    "multipart": (
        MULTIPART,
        multipart(("name", b"a"), ("done", b"true"), ("done", b"true"), ("name", b"a")),
    ),
}


@pytest.mark.parametrize(("content_type", "body"), REPEATED.values(), ids=REPEATED)
def test_repeated_key_in_a_body_gives_400_that_names_it(api, database, alice, content_type, body):
    response = post_todo(api, alice, body, content_type)
    assert_error(response, 400, "bad_request", {"name": ONCE, "done": ONCE})
    assert not list(database.todos.find())


def test_repeated_key_as_field_and_file_gives_400_that_names_it(api, alice):
    response = api.post("/todos", alice.access, data={"name": "x"}, files={"name": ("x.txt", "x")})
    assert_error(response, 400, "bad_request", {"name": ONCE})


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
@pytest.mark.parametrize("path", WITH_BODY)
def test_request_without_a_body_gives_400_that_names_what_is_missing(api, alice, path):
    required = ["name"] if path == "/todos" else ["username", "password"]
    response = post(api, alice, path)
    assert_error(response, 400, "bad_request", dict.fromkeys(required, "Missing."))


OTHER_CONTENT_TYPES = ["text/plain", "application/xml", "application/vnd.api+json", "nonsense", ""]


@pytest.mark.smoke
@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("content_type", OTHER_CONTENT_TYPES)
def test_body_of_another_content_type_gives_415(api, alice, path, content_type):
    response = post(api, alice, path, data=b"name=x", headers={"Content-Type": content_type})
    assert_error(response, 415, "unsupported_media_type")


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
def test_body_with_a_content_encoding_gives_415(api, database, alice, encoding, body):
    response = post_todo(api, alice, body, **{"Content-Encoding": encoding})
    assert_error(response, 415, "unsupported_media_type")
    assert not list(database.todos.find())


def test_form_with_a_content_encoding_gives_415(api, database, alice):
    response = post_todo(api, alice, b"name=milk", FORM, **{"Content-Encoding": "gzip"})
    assert_error(response, 415, "unsupported_media_type")
    assert not list(database.todos.find())


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_body_with_content_encoding_identity_is_read(api, alice, encoding):
    response = post_todo(api, alice, PLAIN, **{"Content-Encoding": encoding})
    assert response.status_code == 201


# The size of a body, and how it is sent.


def in_chunks(body, size=8 * 1024):
    """Yield the parts of a body. The client does not say how many there will be."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_body_over_64_kib_gives_413_on_every_route(api, database, alice, method, path):
    before = list(database.users.find())
    body = json.dumps({"name": "x" * KIB_64})
    response = api.request(method, path, alice.access, data=body, headers={"Content-Type": JSON})
    assert_error(response, 413, "request_too_large")
    assert list(database.users.find()) == before
    assert not list(database.todos.find())


@pytest.mark.smoke
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_of_up_to_64_kib_is_read(each_server, database, alice, chunked):
    for size in (len(PLAIN), KIB_64):
        body = PLAIN.ljust(size)
        response = post_todo(each_server, alice, in_chunks(body) if chunked else body)
        assert response.status_code == 201
    assert [todo["name"] for todo in database.todos.find()] == ["milk", "milk"]


@pytest.mark.parametrize("size", [KIB_64 + 1, 2_000_000], ids=["one byte over", "2 MB"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_over_64_kib_gives_413(each_server, database, alice, chunked, size):
    body = PLAIN.ljust(size)
    response = post_todo(each_server, alice, in_chunks(body) if chunked else body)
    assert_error(response, 413, "request_too_large")
    assert not list(database.todos.find())


def test_body_is_received_before_the_413(api, alice):
    """Otherwise a client that is still sending sees a reset connection and no response."""
    assert_error(post_todo(api, alice, b"x" * 20_000_000), 413, "request_too_large")


@pytest.mark.parametrize("size", [4, 100], ids=["small chunks", "one chunk"])
def test_form_in_chunks_is_read(each_server, alice, size):
    response = post_todo(each_server, alice, in_chunks(b"name=milk&done=true", size), FORM)
    assert response.status_code == 201
    assert response.json()["done"] is True


def test_multipart_form_in_chunks_is_read(each_server, alice):
    body = multipart(("name", b"milk"), ("done", b"true"))
    response = post_todo(each_server, alice, in_chunks(body, 7), MULTIPART)
    assert response.status_code == 201
    assert response.json()["done"] is True


def test_request_after_a_body_in_chunks_is_not_lost(api, alice):
    """If the server closes a connection, the response must say so: the client uses it again."""
    for _ in range(50):
        assert post_todo(api, alice, in_chunks(PLAIN)).status_code == 201
        assert api.get("/todos?limit=1", alice.access).status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_form_over_64_kib_is_not_cut_off(each_server, database, alice, chunked):
    body = b"name=milk" + b"&" * KIB_64 + b"done=true"
    response = post_todo(each_server, alice, in_chunks(body) if chunked else body, FORM)
    assert_error(response, 413, "request_too_large")
    assert not list(database.todos.find())


# Slow and careful clients.


def open_post(server, user, headers):
    """Send the headers of a POST to /todos, and return the connection, which takes its body."""
    headers = {"Authorization": f"Bearer {user.access}", "Content-Type": JSON} | headers
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/todos")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def as_chunk(body):
    """Return a part of a body as a client sends it with Transfer-Encoding: chunked."""
    return b"%x\r\n%s\r\n" % (len(body), body)


LENGTH = {"Content-Length": len(PLAIN)}
CHUNKED = {"Transfer-Encoding": "chunked"}
# Headers, what follows them immediately, and what follows after a pause.
PIECES = [
    (LENGTH, b"", PLAIN),
    (LENGTH, PLAIN[:5], PLAIN[5:]),
    (CHUNKED, b"", as_chunk(PLAIN) + as_chunk(b"")),
    (CHUNKED, as_chunk(PLAIN[:5]), as_chunk(PLAIN[5:]) + as_chunk(b"")),
]


def test_body_that_arrives_in_pieces_is_read(api, development_server, database, alice):
    def send_slowly(server, headers, first, second):
        connection = open_post(server, alice, headers)
        connection.send(first)
        # The pause is what is tested. All clients make it at the same time.
        time.sleep(2.9)
        connection.send(second)
        return connection.getresponse().status

    clients = [(server, *pieces) for server in (api, development_server) for pieces in PIECES]
    with ThreadPoolExecutor(len(clients)) as pool:
        statuses = list(pool.map(send_slowly, *zip(*clients, strict=True)))
    assert statuses == [201] * 8
    assert [todo["name"] for todo in database.todos.find()] == ["milk"] * 8


@pytest.mark.slow
@pytest.mark.parametrize("headers", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_body_that_stops_arriving_gives_400(api, database, alice, headers):
    connection = open_post(api, alice, headers)
    connection.send(PLAIN[:5] if headers is LENGTH else as_chunk(PLAIN[:5]))
    response = connection.getresponse()
    assert response.status == 400
    message = "The body has not arrived completely. Send it again."
    assert json.loads(response.read()) == {"message": message, "error": "bad_request"}
    assert not list(database.todos.find())


@pytest.mark.parametrize("headers", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_expect_100_continue_is_answered_before_the_body(each_server, alice, headers):
    connection = open_post(each_server, alice, {**headers, "Expect": "100-continue"})
    assert connection.sock.recv(25).startswith(b"HTTP/1.1 100 Continue\r\n")
    connection.send(PLAIN if headers is LENGTH else as_chunk(PLAIN) + as_chunk(b""))
    assert connection.getresponse().status == 201


@pytest.mark.skipif(not shutil.which("curl", path=CLEAN["PATH"]), reason="there is no curl here")
@pytest.mark.parametrize("send", ["-T", "--data-binary"])
@pytest.mark.parametrize(("size", "status"), [(25, "201"), (2_000_000, "413")])
def test_curl_that_expects_100_continue_does_not_wait(
    each_server, alice, tmp_path, send, size, status
):
    file = tmp_path / "todo.json"
    file.write_bytes(PLAIN.ljust(size))
    # By default curl sends the body after a second, with or without a response.
    command = ["curl", "--expect100-timeout", "20", "-s", "-o", tmp_path / "response"]
    command += ["-w", "%{http_code}", "-X", "POST", send, file if send == "-T" else f"@{file}"]
    authorization = f"Authorization: Bearer {alice.access}"
    for header in ("Expect: 100-continue", f"Content-Type: {JSON}", authorization):
        command += ["-H", header]
    command += [f"{each_server.url}/todos"]
    begin = time.monotonic()
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True)
    assert time.monotonic() - begin < 2
    assert done.stdout == status
