"""How a request is framed: its first line, its headers, its body and the time for it, `Expect`."""

import contextlib
import json
import random
import select
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import assert_error, assert_headers, report, short, timed
from support.connections import (
    HALF_BODY,
    HALF_CHUNK,
    TWO_MEGABYTES,
    RawResponse,
    chunks,
    connect,
    head,
    received,
    send,
    sent_despite_reset,
)

BODY = b'{"name": "milk", "done": true}'
TOO_LARGE = (413, "request_too_large")


def post(user, *headers, version="1.1"):
    """Return the first line and the headers of a request that adds a todo."""
    return head(
        f"POST /todos HTTP/{version}",
        "Content-Type: application/json",
        f"Authorization: Bearer {user.access}",
        *headers,
    )


def assert_rejected(api, database, request, status=400, code="bad_request"):
    """Assert an error response to a request whose client sends on, and that nothing changes."""
    response = send(api, request + TWO_MEGABYTES)
    assert response.data.startswith(b"HTTP/1.1 ")
    assert_error(response, status, code)
    assert database.todos.count_documents({}) == 0
    return response


def assert_added(database, response, todos=1):
    """Assert that a request has added the todo of BODY."""
    assert response.status_code == 201, response.data
    stored = [(todo["name"], todo["done"]) for todo in database.todos.find()]
    assert stored == [("milk", True)] * todos


# The first line.


@pytest.mark.parametrize(
    "line",
    [
        # Something is missing.
        b"",
        b" ",
        b"POST",
        b"POST /todos",
        b"POST /todos ",
        b"/todos HTTP/1.1",
        b"HTTP/1.1",
        # The protocol.
        b"POST /todos HTTP",
        b"POST /todos http/1.1",
        b"POST /todos HTTP/1.1 ",
        b"POST /todos HTTP/1.10",
        b"POST /todos HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"POST /todos <script>",
        # Spaces.
        b" POST /todos HTTP/1.1",
        b"POST  /todos HTTP/1.1",
        b"POST /todos  HTTP/1.1",
        b"POST /to dos HTTP/1.1",
        b"POST\t/todos\tHTTP/1.1",
        b"POST /todos\tHTTP/1.1",
        b"\r\nPOST /todos HTTP/1.1",
        # The method.
        b"PO(ST /todos HTTP/1.1",
        b"POST: /todos HTTP/1.1",
        b"P\xc3\x96ST /todos HTTP/1.1",
        # Other forms of the target.
        b"POST todos HTTP/1.1",
        b"POST ?limit=1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT x:443 HTTP/1.1",
        b"POST x:443 HTTP/1.1",
        b"POST http:/todos HTTP/1.1",
        b"POST http:///todos HTTP/1.1",
        b"POST ftp://x/todos HTTP/1.1",
        b"POST //x/todos#top HTTP/1.1",
        # A fragment.
        b"POST /todos#top HTTP/1.1",
        b"POST /todos?limit=1#top HTTP/1.1",
        b"POST http://x/todos#top HTTP/1.1",
        # Control characters.
        b"POST /todos\x00 HTTP/1.1",
        b"POST /todos\x01 HTTP/1.1",
        b"POST /todos?\x0b HTTP/1.1",
        b"POST /todos\x7f HTTP/1.1",
        b"POST http://x\x01/todos HTTP/1.1",
        b"POST /todos\n HTTP/1.1",
    ],
    ids=repr,
)
def test_first_line_that_is_not_http_is_400(api, database, alice, line):
    request = post(alice, b"Content-Length: %d" % len(BODY)) + BODY
    assert_rejected(api, database, request.replace(b"POST /todos HTTP/1.1", line, 1))


@pytest.mark.parametrize("rest", [b"", b"\r\nX: HTTP/1.1", b"\nHost: x"], ids=repr)
def test_first_line_without_headers_that_is_not_http_is_400(api, database, rest):
    assert_rejected(api, database, b"GET /todos" + rest + b"\r\n\r\n")


@pytest.mark.parametrize(
    "target",
    [
        b"/todos",
        b"/todos?",
        b"/%74odos",
        b"http://x/todos",
        b"HTTP://X:80/todos",
        b"https://user@x/todos?a=b",
        b"http://[::1]:80/%74odos",
        # A name that is not one. The API does not look at it.
        b"http://[/todos",
        b"http://[x]/todos",
        b"http://\xff/todos",
    ],
    ids=repr,
)
def test_target_is_a_path_or_a_whole_url(api, database, alice, target):
    request = post(alice, b"Content-Length: %d" % len(BODY)) + BODY
    assert_added(database, send(api, request.replace(b"/todos", target, 1)))


# uWSGI would read some of these as /todos.
OTHER_PATHS = [b"/todos%", b"/todos%4", b"/%todos", b"/x/../todos", b"/./todos"]
OTHER_PATHS += [b"/todos/x/..", b"/todos/x/%2e%2e", b"/todos%00", b"/todos%zz", b"/todos//"]


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"?limit=1", b"/nowhere", b"/todos/", b"/%ff", b"/\xff", *OTHER_PATHS],
    ids=repr,
)
def test_path_of_a_whole_url_means_what_it_means_alone(api, path):
    alone = path if path.startswith(b"/") else b"/" + path
    of_url = send(api, head(b"GET http://x%s HTTP/1.1" % path))
    assert_error(of_url, 404, "not_found")
    assert of_url.data == send(api, head(b"GET %s HTTP/1.1" % alone)).data


def test_query_of_a_whole_url_is_read(api, alice):
    for _ in range(2):
        alice.add()
    for target in (b"/todos?limit=1", b"http://x/todos?limit=1"):
        line = b"GET %s HTTP/1.1" % target
        response = send(api, head(line, f"Authorization: Bearer {alice.access}"))
        assert len(response.json()["todos"]) == 1


def test_host_of_a_whole_url_replaces_the_header(api, alice):
    """RFC 9112, 3.2.2. Werkzeug rejects some values of the header."""
    request = head("GET http://x/todos HTTP/1.1", f"Authorization: Bearer {alice.access}")
    assert send(api, request.replace(b"Host: x", b"Host: a..b")).status_code == 200


# Long requests. uWSGI keeps 64 KiB of them, in which some parts are twice.


def test_long_query_is_read_or_rejected_and_never_dropped(api, alice):
    for _ in range(2):
        alice.add()
    results = {}
    for size in [1000, 16_000, 31_000, *range(32_000, 33_000, 10), 40_000, 60_000]:
        # Without the query, both todos are on the page.
        line = b"GET /todos?limit=1%s HTTP/1.1" % (b"&" * size)
        data = sent_despite_reset(api, head(line, f"Authorization: Bearer {alice.access}"))
        # uWSGI closes the connection if the query fits and the headers do not.
        results[size] = RawResponse(data).status_code if data else None
        if results[size] == 200:
            assert len(RawResponse(data).json()["todos"]) == 1
        elif results[size]:
            assert_error(RawResponse(data), 400, "bad_request")
    assert [results[size] for size in (1000, 16_000, 31_000)] == [200] * 3
    assert [results[size] for size in (40_000, 60_000)] == [400] * 2


def test_headers_near_the_limit_are_read_or_rejected_and_never_dropped(api, database, alice):
    results = {}
    for size in [1000, 32_000, *range(64_200, 65_600, 10), 70_000, 100_000]:
        request = post(alice, b"X: " + b"x" * size, b"Content-Length: %d" % len(BODY)) + BODY
        data = sent_despite_reset(api, request)
        # uWSGI closes the connection of headers that do not fit.
        results[size] = RawResponse(data).status_code if data else None
    assert set(results.values()) == {201, None}
    assert results[32_000] == 201
    assert {todo["name"] for todo in database.todos.find()} == {"milk"}


def test_many_headers_are_read_or_rejected_and_never_dropped(api, database, alice):
    results = {}
    for number in [50, 100, 119, 120, 500, 1000, *range(2020, 2050), 2300, 5000]:
        names = [f"X{place}: y" for place in range(number)]
        data = sent_despite_reset(api, post(alice, *names, f"Content-Length: {len(BODY)}") + BODY)
        # uWSGI closes the connection of more headers than it has places for.
        results[number] = RawResponse(data).status_code if data else None
    assert set(results.values()) == {201, None}
    assert results[1000] == 201
    assert {todo["name"] for todo in database.todos.find()} == {"milk"}


# Headers that uWSGI, Werkzeug, Flask, its extensions or this API read, and some that none reads.
HEADERS = """
Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Connection
Content-Encoding Content-Length Content-MD5 Content-Type Cookie Date Expect Forwarded From Host
HTTP2-Settings If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Keep-Alive
Max-Forwards Origin Pragma Proxy-Authorization Range Referer Sec-WebSocket-Key
Sec-WebSocket-Protocol Sec-WebSocket-Version TE Trailer Transfer-Encoding Upgrade User-Agent Via X
X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Proto
X-Forwarded-SSL X-HTTP-Method-Override X-Request-ID X-Sendfile X_Forwarded_Proto
""".split()
VALUES = [
    b"",
    b"\xff",
    b"\xc3\xa9",
    b"\x01",
    b"1",
    b"https, \xff",
    b"ws",
    b"websocket",
    b"x" * 8000,
]
# The responses to all of these values, and 200 for the other headers.
STATUSES = {"Authorization": 401, "Content-Length": 400, "Transfer-Encoding": 400}


@pytest.mark.parametrize("value", VALUES, ids=short)
def test_header_of_any_value_gets_a_response_of_the_app(api, alice, value):
    for name in HEADERS:
        lines = [b"GET /todos HTTP/1.1", f"Authorization: Bearer {alice.access}"]
        if name == "Authorization":
            del lines[1]
        header = b"%s: %s" % (name.encode(), value)
        # Half closed, because a Content-Length announces a body.
        response = send(api, head(*lines, header), half_close=True)
        assert response.status_code == STATUSES.get(name, 200), (header, response.data)
        assert_headers(response)
        assert response.json().keys() in ({"todos", "next"}, {"message", "error"})


@pytest.mark.parametrize("scheme", [b"http", b"https", b"ws", b"\xff"], ids=repr)
def test_scheme_of_the_router_changes_no_response(api, database, alice, scheme):
    request = post(alice, b"X-Forwarded-Proto: " + scheme, b"Content-Length: %d" % len(BODY))
    assert_added(database, send(api, request + BODY))


@pytest.mark.parametrize("query", [b"limit=\xff", b"\xff=1", b"limit=1&\xc3"], ids=repr)
def test_query_that_is_not_utf8_is_400(api, alice, query):
    line = b"GET /todos?%s HTTP/1.1" % query
    response = send(api, head(line, f"Authorization: Bearer {alice.access}"))
    assert_error(response, 400, "bad_request")
    assert "UTF-8" in response.json()["message"]


@pytest.mark.parametrize(
    "lines",
    [
        [b"HEAD /todos HTTP/1.1", b"Content-Length: x"],
        [b"HEAD /todos HTTP/1.1", b"Content-Length: 100000"],
        [b"HEAD /todos HTTP/3", b"Host: x"],
    ],
    ids=repr,
)
def test_error_for_head_has_no_body(api, lines):
    response = send(api, head(*lines))
    assert response.status_code in (400, 413)
    assert response.data.endswith(b"\r\n\r\n")
    assert int(response.headers["Content-Length"]) > 0


# Where the body ends.


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length: 30", b"Content-Length: 30"],
        [b"Content-Length: 30", b"content-length: 5"],
        [b"Content-Length: 30, 30"],
        [b"Content-Length: +30"],
        [b"Content-Length: -5"],
        [b"Content-Length: 0x1e"],
        [b"Content-Length: 30.0"],
        [b"Content-Length: 3e1"],
        [b"Content-Length: 3 0"],
        [b"Content-Length: 3_0"],
        [b"Content-Length: \xd9\xa3\xd9\xa0"],
        [b"Content-Length:"],
        [b"Content-Length:    "],
        [b"Content-Length: \t30"],
        [b"Content-Length: 30 "],
        [b"Content-Length: 4\t"],
        [b"Content-Length:\r\n 30"],
        [b"Content-Length: 30", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 30"],
        [b"Transfer-Encoding: gzip", b"Content-Length: 30"],
    ],
    ids=repr,
)
def test_content_length_that_is_not_one_number_is_400(api, database, alice, headers):
    response = assert_rejected(api, database, post(alice, *headers) + BODY)
    assert "Content-Length" in response.json()["message"]
    with connect(api) as connection:
        # Immediately: the server does not wait for a body.
        connection.settimeout(2)
        connection.sendall(post(alice, *headers))
        assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.mark.parametrize("zeros", [1, 5000])
def test_zeros_before_a_content_length_change_nothing(api, database, alice, zeros):
    length = "0" * zeros + str(len(BODY))
    assert_added(database, send(api, post(alice, f"Content-Length: {length}") + BODY))


def test_content_length_of_zeros_alone_is_0(api, alice):
    response = send(api, post(alice, "Content-Length: " + "0" * 5000) + BODY)
    assert_error(response, 400, "bad_request", "The body is empty. Send a JSON object.")


@pytest.mark.parametrize("length", ["65537", "4294967326", "18446744073709551646", "9" * 5000])
def test_content_length_over_64_kib_is_413(api, database, alice, length):
    assert_rejected(api, database, post(alice, f"Content-Length: {length}"), *TOO_LARGE)


def test_client_that_sends_20_mb_is_not_interrupted_by_the_413(api, alice):
    # So much that the systems of client and server cannot keep it for a server that does not read.
    body = b" " * 20_000_000
    assert_error(send(api, post(alice, f"Content-Length: {len(body)}"), body), *TOO_LARGE)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: chunked, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: chunked;q=1"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding:"],
    ],
    ids=repr,
)
def test_transfer_encoding_other_than_chunked_is_400(api, database, alice, headers):
    response = assert_rejected(api, database, post(alice, *headers) + chunks(BODY))
    assert "Transfer-Encoding" in response.json()["message"]


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length : 30",
        b"Transfer-Encoding\t: chunked",
        b"X : y",
        b"Content-Length\x0c: 30",
        b"Content-Length\x00: 30",
        b"Content Length: 30",
        b"Content-L\xc3\xa9ngth: 30",
        b"(X): y",
    ],
    ids=repr,
)
def test_name_of_a_header_that_is_not_a_token_is_400(api, database, alice, header):
    assert_rejected(api, database, post(alice, header) + chunks(BODY))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("chunked", 1),
        ("chunked", 7),
        ("chunked", None),
        ("CHUNKED", None),
        ("Chunked", None),
        ("chunked ", None),
    ],
)
def test_chunks_of_any_size_are_read(api, database, alice, name, size):
    request = post(alice, f"Transfer-Encoding: {name}") + chunks(BODY, size)
    assert_added(database, send(api, request))


@pytest.mark.parametrize(
    "body",
    [
        b"1E\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"0" * 1000 + b"1e\r\n" + BODY + b"\r\n000\r\n\r\n",
        b"1e\r\n" + BODY + b"\r\n0\r\nX-Checksum: 1\r\n\r\n",
    ],
    ids=["upper case", "zeros", "trailer"],
)
def test_spellings_of_chunks_are_read(api, database, alice, body):
    assert_added(database, send(api, post(alice, "Transfer-Encoding: chunked") + body))


def test_body_of_64_kib_is_read(api, database, alice):
    largest = BODY.ljust(64 * 1024)
    assert_added(database, send(api, post(alice, f"Content-Length: {len(largest)}") + largest))


@pytest.mark.parametrize("size", [1, 1000, 65_535, None])
def test_body_of_64_kib_is_read_in_chunks_and_one_byte_more_is_413(api, database, alice, size):
    largest = BODY.ljust(64 * 1024)
    request = post(alice, "Transfer-Encoding: chunked")
    assert_added(database, send(api, request + chunks(largest, size)))
    database.todos.delete_many({})
    assert_rejected(api, database, request + chunks(largest + b" ", size), *TOO_LARGE)


@pytest.mark.parametrize(
    "body",
    [
        b"1e;name=value\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"1e ;x\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"1e \r\n" + BODY + b"\r\n0\r\n\r\n",
        b"1e\n" + BODY + b"\n0\n\n",
        b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
        b'"1e"\r\n' + BODY + b"\r\n0\r\n\r\n",
        *[b"f" * digits + b"\r\n" + BODY + b"\r\n0\r\n\r\n" for digits in (7, 15, 17, 40)],
        b"1e8480\r\n",
        b"0" * 100_000 + b"1e\r\n" + BODY + b"\r\n0\r\n\r\n",
    ],
    ids=lambda body: repr(body[:18]),
)
def test_chunk_that_uwsgi_does_not_read_is_400(api, database, alice, body):
    request = post(alice, "Transfer-Encoding: chunked")
    response = assert_rejected(api, database, request + body)
    assert "larger than 64 KiB" in response.json()["message"]


@pytest.mark.parametrize("size", [1, 8, None])
def test_body_that_is_cut_off_is_400(api, database, alice, size):
    whole = chunks(BODY, size)
    requests = [post(alice, "Transfer-Encoding: chunked") + whole[:-cut] for cut in (5, 9, 20)]
    requests += [post(alice, f"Content-Length: {len(BODY)}") + part for part in (b"", BODY[:-1])]
    for request in requests:
        response = send(api, request, half_close=True)
        assert_error(response, 400, "bad_request")
        assert response.json()["message"].startswith("The body has not arrived completely")
    assert database.todos.count_documents({}) == 0


def test_body_arrives_unchanged_in_whatever_pieces(api, database, alice):
    numbers = random.Random(25)
    for round_ in range(40):
        description = "".join(numbers.choices("ab \u00e9\U0001f600", k=numbers.randrange(9_000)))
        spaces = "".join(numbers.choices(" \n\r", k=numbers.randrange(20_000)))
        todo = {"name": "milk", "description": description}
        body = (json.dumps(todo, ensure_ascii=False, indent=1) + spaces).encode()
        if round_ % 2:
            request = post(alice, f"Content-Length: {len(body)}") + body
        else:
            size = numbers.randrange(1, 3000)
            request = post(alice, "Transfer-Encoding: chunked") + chunks(body, size)
        cuts = sorted(numbers.choices(range(len(request)), k=numbers.randrange(6)))
        pieces = [request[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        response = send(api, *pieces, pause=0.001)
        assert response.status_code == 201, response.data
        assert response.json()["description"] == description
    assert database.todos.count_documents({}) == 40


# How long headers and a body may take.


@pytest.mark.slow
def test_headers_and_bodies_that_pause_are_read(api, database, alice):
    start = ("POST /todos HTTP/1.1", "Content-Type: application/json")
    start += (f"Authorization: Bearer {alice.access}",)
    with_length = head(*start, f"Content-Length: {len(BODY)}")
    chunked = head(*start, "Transfer-Encoding: chunked")
    one = chunks(BODY)
    requests = [
        # Pauses behind the headers and within the body, a chunk, its length or its end.
        (with_length, BODY[:9], BODY[9:]),
        (with_length + BODY[:1], BODY[1:-1], BODY[-1:]),
        (chunked, one[:9], one[9:]),
        (chunked + one[:1], one[1:2], one[2:]),
        (chunked + one[:-6], one[-6:-3], one[-3:]),
        (chunked + one[:3], one[3:-5], one[-5:]),
    ]
    with ThreadPoolExecutor() as pool:
        sent = [pool.submit(send, api, *parts, pause=4) for parts in requests]
        # Within the name of a header.
        sent += [pool.submit(send, api, with_length[:30], with_length[30:] + BODY, pause=25)]
    for response in sent:
        assert_added(database, response.result(), todos=len(sent))


def drip_until_response(server, start):
    """Send a byte a second, until a response comes; return the response."""
    with connect(server) as connection:
        connection.sendall(start)
        while not select.select([connection], [], [], 1)[0]:
            connection.sendall(b" ")
        return RawResponse(received(connection))


@pytest.mark.slow
def test_body_that_drips_is_400_after_10_seconds(mongod, start):
    server = start(mongod.uri)
    processes = {process.pid for process in server.processes()}
    with ThreadPoolExecutor(80) as pool:
        # Some drip, and some stop while the others go on.
        sent = [
            pool.submit(timed, lambda h=half, s=slowly: s(server, h))
            for half in [HALF_BODY, HALF_CHUNK] * 20
            for slowly in (drip_until_response, send)
        ]
        results = [result.result() for result in sent]
    for seconds, response in results:
        assert_error(response, 400, "bad_request")
        assert "has not arrived completely" in response.json()["message"]
        assert 9.9 < seconds < 20
    report(longest=round(max(seconds for seconds, _ in results), 2))
    # No worker has ended because of them, not even afterwards.
    for _ in range(20):
        assert_error(server.get("/todos"), 401, "authorization_required")
    assert {process.pid for process in server.processes()} == processes
    assert "Traceback" not in server.log.read_text()


# Expect.


def framed(framing):
    """Return the header and the bytes of BODY in this framing."""
    if framing == "length":
        return f"Content-Length: {len(BODY)}", BODY
    return "Transfer-Encoding: chunked", chunks(BODY, 10)


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", "100-CONTINUE", "100-continue "])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_expect_is_answered_once_before_the_body(api, database, alice, value, framing):
    header, body = framed(framing)
    with connect(api) as connection:
        connection.settimeout(2)
        connection.sendall(post(alice, header, f"Expect: {value}"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        response = received(connection)
    assert b"100 Continue" not in response
    assert_added(database, RawResponse(response))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_expect_is_ignored_in_http_1_0(api, database, alice, framing):
    header, body = framed(framing)
    request = post(alice, header, "Expect: 100-continue", version="1.0")
    assert_added(database, send(api, request + body))


def test_expect_without_a_body_is_ignored(api, alice):
    request = head("GET /todos HTTP/1.1", f"Authorization: Bearer {alice.access}", "Expect: x")
    for value in (b"100-continue", b"200-ok"):
        assert send(api, request.replace(b"Expect: x", b"Expect: " + value)).status_code == 200


def test_expect_of_a_body_that_is_rejected_gets_the_error_alone(api, database, alice):
    for length, error in (("65537", TOO_LARGE), ("-5", ())):
        headers = (f"Content-Length: {length}", "Expect: 100-continue")
        assert_rejected(api, database, post(alice, *headers), *error)


# The end of a connection.


def test_client_that_closes_its_sending_side_gets_the_response(api, database, alice):
    token = f"Authorization: Bearer {alice.access}"
    get = send(api, head("GET /todos HTTP/1.1", token), half_close=True)
    assert get.status_code == 200 and get.json() == {"todos": [], "next": None}
    for number, framing in enumerate(("length", "chunked"), 1):
        header, body = framed(framing)
        response = send(api, post(alice, header) + body, half_close=True)
        assert_added(database, response, todos=number)


def test_tls_gets_no_response_and_ends_no_worker(api):
    processes = {process.pid for process in api.processes()}
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with connect(api) as connection:
        connection.sendall(hello.read())
        connection.shutdown(socket.SHUT_WR)
        assert received(connection) == b""
    assert api.get("/nowhere").status_code == 404
    assert {process.pid for process in api.processes()} == processes


def test_response_says_that_the_connection_is_closed(api):
    """Heroku's router would otherwise send the next request on a connection that is gone."""
    for line in ("GET /todos HTTP/1.1", "GET /todos HTTP/2.0"):
        response = send(api, head(line))
        assert response.headers["Connection"] == "close"
        assert response.text.endswith("}\n")


def memory(server):
    """Return the memory of a server's processes, in bytes."""
    return sum(process.memory_info().rss for process in server.processes())


@pytest.mark.slow
def test_bodies_of_short_lines_take_no_more_memory_than_others(mongod, database, start):
    """uWSGI reads a body line by line, and an object for each line would take 30 times as much."""
    bodies = (b"x" * 64_000, b"x\n" * 32_000)
    servers = [start(mongod.uri, WEB_CONCURRENCY="1") for _ in bodies]
    begin = largest = [memory(server) for server in servers]
    with contextlib.ExitStack() as stack:
        connections = []
        for server, body in zip(servers * 200, bodies * 200):
            connections.append(stack.enter_context(connect(server)))
            connections[-1].sendall(head(b"POST /login HTTP/1.1", b"Content-Length: 65000") + body)
        # Until the time for a body is over.
        while not select.select(connections, [], [], 0.1)[0]:
            largest = list(map(max, largest, map(memory, servers)))
    growths = [most - least for most, least in zip(largest, begin)]
    report(growths=[f"{growth / 1e6:.0f} MB" for growth in growths])
    assert growths[1] < 2 * growths[0]
