"""Forms: urlencoded, as `curl -d` sends them, and multipart, as browsers and `curl -F` do."""

import gc
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clients import assert_error

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
CUT_OFF = (
    "The form is cut off or malformed: it must consist of parts with the boundary of its"
    " Content-Type before each, and -- behind the last boundary."
)


def multipart(*fields, headers=""):
    """Return a multipart form of (name, bytes) pairs. `headers` are more headers of each part."""
    parts = []
    for name, value in fields:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n'
        parts.append(head.encode() + value + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


def post_form(api, user, body, content_type=MULTIPART):
    """Add a todo from a form."""
    return api.post("/todos", user.access, data=body, headers={"Content-Type": content_type})


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
    # The password is the same, however it is sent.
    assert api.post("/login", json=fields).status_code == 200


@pytest.mark.parametrize(("text", "done"), [("true", True), ("false", False)])
def test_done_in_a_form_is_true_or_false(api, alice, text, done):
    response = api.post("/todos", alice.access, data={"name": "x", "done": text})
    assert response.json()["done"] is done


@pytest.mark.parametrize("text", ["True", "1", "yes", "", " true", "null"])
def test_any_other_done_in_a_form_gives_400(api, alice, text):
    response = api.post("/todos", alice.access, data={"name": "x", "done": text})
    assert_error(response, 400, "bad_request", {"done": "Must be true or false."})


@pytest.mark.parametrize("body", [b'{"name": "milk"}', b' \n{"name": "milk"}', b"[]", b"{"])
def test_json_that_is_sent_as_a_form_gives_400_that_says_so(api, database, alice, body):
    """Without the header Content-Type, `curl -d` and axios send JSON so."""
    response = post_form(api, alice, body, URLENCODED)
    assert_error(response, 400, "bad_request")
    assert "says that this is a form" in response.json()["message"]
    assert not list(database.todos.find())


def test_file_in_a_form_gives_400(api, alice):
    files = {"name": ("name.txt", "x"), "other": ("other.txt", "x")}
    response = api.post("/todos", alice.access, files=files)
    message = {"name": "Must be a string.", "other": "Unknown field."}
    assert_error(response, 400, "bad_request", message)


ONCE = "Must be given only once."
TWICE = [("name", b"a"), ("done", b"true"), ("done", b"true"), ("name", b"a")]
REPEATED = {
    "urlencoded": (URLENCODED, b"name=a&name=b&done=true&done=true"),
    "escaped": (URLENCODED, b"name=a&n%61me=a&done=true&done=true"),
    "multipart": (MULTIPART, multipart(*TWICE)),
}


@pytest.mark.parametrize(("content_type", "body"), REPEATED.values(), ids=REPEATED)
def test_repeated_field_of_a_form_gives_400_that_names_it(api, database, alice, content_type, body):
    response = post_form(api, alice, body, content_type)
    assert_error(response, 400, "bad_request", {"name": ONCE, "done": ONCE})
    assert not list(database.todos.find())


def test_repeated_name_as_field_and_file_gives_400_that_names_it(api, alice):
    response = api.post("/todos", alice.access, data={"name": "x"}, files={"name": ("x.txt", "x")})
    assert_error(response, 400, "bad_request", {"name": ONCE})


# Text that is not UTF-8.


NOT_UTF8 = {
    "escaped bytes": (URLENCODED, b"name=" + b"%ff" * 8),
    "half a character": (URLENCODED, b"name=%d0"),
    "bytes": (URLENCODED, b"name=" + b"\xff" * 8),
    "escaped name": (URLENCODED, b"name=x&%ff=1"),
    "bytes in parts": (MULTIPART, multipart(("name", b"\xff" * 8))),
    "name of a part": (MULTIPART, multipart(("name", b"x")).replace(b'"name"', b'"\xff"')),
}


@pytest.mark.parametrize(("content_type", "body"), NOT_UTF8.values(), ids=NOT_UTF8)
def test_form_that_is_not_utf8_gives_400(api, database, alice, content_type, body):
    response = post_form(api, alice, body, content_type)
    assert_error(response, 400, "bad_request")
    assert "UTF-8" in response.json()["message"]
    assert not list(database.todos.find())


OTHER_PARTS = [
    "Content-Type: text/plain; charset=us-ascii",
    'content-type: text/plain; CHARSET="windows-1252"',
    "Content-Type: text/plain; charset=nonsense",
    "Content-Transfer-Encoding: base64",
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: QUOTED-PRINTABLE",
]


@pytest.mark.smoke
@pytest.mark.parametrize("headers", OTHER_PARTS)
def test_part_that_is_not_plain_utf8_gives_400(api, database, alice, headers):
    """Otherwise every Cyrillic password of one length would become the same question marks."""
    body = multipart(("name", "молоко".encode()), headers=headers + "\r\n")
    response = post_form(api, alice, body)
    assert_error(response, 400, "bad_request")
    expected = "Content-Transfer-Encoding" if "Encoding" in headers else "Send UTF-8."
    assert expected in response.json()["message"]
    assert not list(database.todos.find())


PLAIN_PARTS = [
    "Content-Type: text/plain",
    "Content-Type: text/plain; charset=utf-8",
    'Content-Type: text/plain; charset="UTF-8"',
    "Content-Type: text/plain; charset=utf8",
    "Content-Type: application/octet-stream",
    "Content-Transfer-Encoding: 8bit",
    "Content-Transfer-Encoding: Binary",
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit",
]


@pytest.mark.parametrize("headers", PLAIN_PARTS)
def test_part_that_says_that_it_is_utf8_is_stored_exactly(api, database, alice, headers):
    body = multipart(("name", "молоко".encode()), headers=headers + "\r\n")
    assert post_form(api, alice, body).status_code == 201
    assert [todo["name"] for todo in database.todos.find()] == ["молоко"]


@pytest.mark.parametrize("charset", ["us-ascii", "iso-8859-1", "utf-16", "nonsense"])
def test_urlencoded_form_in_another_charset_gives_400(api, database, alice, charset):
    body = "name=молоко".encode()
    response = post_form(api, alice, body, f"{URLENCODED}; charset={charset}")
    assert_error(response, 400, "bad_request")
    assert charset in response.json()["message"]
    assert not list(database.todos.find())
    assert post_form(api, alice, body, f"{URLENCODED}; charset=UTF-8").status_code == 201
    # ASCII is the same in all of them.
    assert post_form(api, alice, b"name=milk", f"{URLENCODED}; charset={charset}").ok


@pytest.mark.parametrize("where", ["form", "part"])
def test_names_of_charsets_do_not_stay_in_memory(in_process, alice, where):
    """Python's `codecs.lookup` keeps each name that it does not know."""
    tracemalloc.start()
    for number in range(100):
        charset = f"{where}-{number}-{'x' * 30_000}"
        if where == "form":
            body, content_type = "name=молоко".encode(), f"{URLENCODED}; charset={charset}"
        else:
            headers = f"Content-Type: text/plain; charset={charset}\r\n"
            body, content_type = multipart(("name", b"milk"), headers=headers), MULTIPART
        response = post_form(in_process, alice, body, content_type)
        assert_error(response, 400, "bad_request")
        assert len(response.text) < 200
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All names together have 3 million characters.
    assert kept < 1_500_000


# The boundary.


NO_BOUNDARY = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
]
NO_BOUNDARY += ["multipart/form-data; charset=utf-8", "Multipart/Form-Data;"]


@pytest.mark.smoke
@pytest.mark.parametrize("content_type", NO_BOUNDARY)
def test_form_without_its_boundary_gives_400_that_says_so(api, database, alice, content_type):
    response = post_form(api, alice, multipart(("name", b"milk")), content_type)
    assert_error(response, 400, "bad_request")
    assert "has no boundary" in response.json()["message"]
    assert not list(database.todos.find())


def test_boundary_within_a_value_is_no_part(api, database, alice):
    value = "x--b" * 2000
    assert post_form(api, alice, multipart(("name", b"x"), ("description", value.encode()))).ok
    assert [todo["description"] for todo in database.todos.find()] == [value]


@pytest.mark.parametrize(("length", "status"), [(70, 201), (71, 400), (8000, 400)])
def test_boundary_has_at_most_70_characters(api, alice, length, status):
    body = multipart(("name", b"milk")).replace(b"--b", b"--" + length * b"b")
    content_type = f"multipart/form-data; boundary={length * 'b'}"
    response = post_form(api, alice, body, content_type)
    assert response.status_code == status
    if status == 400:
        assert_error(response, 400, "bad_request", "The boundary has more than 70 characters.")


def test_form_that_is_cut_off_anywhere_gives_400_that_says_so(api, database, alice):
    whole = multipart(("name", b"milk"), ("done", b"true"))
    assert post_form(api, alice, whole).status_code == 201
    database.todos.delete_many({})
    # The line end behind the last boundary may be missing.
    for size in range(len(whole) - len("-\r\n")):
        assert_error(post_form(api, alice, whole[:size]), 400, "bad_request", CUT_OFF)
    assert not list(database.todos.find())


MALFORMED = {
    "another boundary": multipart(("name", b"milk")).replace(b"--b", b"--c"),
    "no parts": b"--b--\r\n",
    "urlencoded": b"name=milk",
    "json": b'{"name": "milk"}',
    "no headers": b"--b\r\n\r\nmilk\r\n--b--\r\n",
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nmilk\r\n--b--\r\n",
    "headers without end": b"--b\r\nContent-Disposition: form-data; name=name\r\n--b--\r\n",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_multipart_form_gives_400(api, database, alice, body):
    assert_error(post_form(api, alice, body), 400, "bad_request")
    assert not list(database.todos.find())


# The number of fields.


def urlencoded_form(count):
    return URLENCODED, "&".join(f"x{number}=" for number in range(count)).encode()


def multipart_form(count):
    return MULTIPART, multipart(*[(f"x{number}", b"") for number in range(count)])


@pytest.mark.parametrize("form", [urlencoded_form, multipart_form])
def test_form_of_more_than_1000_fields_gives_400_that_names_the_number(api, database, alice, form):
    content_type, body = form(1000)
    response = post_form(api, alice, body, content_type)
    assert_error(response, 400, "bad_request")
    # Read: the errors are about its fields.
    assert response.json()["message"]["x0"] == "Unknown field."
    for count in (1001, 1200):
        content_type, body = form(count)
        response = post_form(api, alice, body, content_type)
        assert_error(response, 400, "bad_request", "The form has more than 1,000 fields.")
    assert not list(database.todos.find())


# Parts that Hypothesis makes up.

NAMES = st.sampled_from(["Content-Type", "Content-Disposition", "Content-Transfer-Encoding", "X"])
WORDS = ["form-data", "text/plain", "charset", "utf-8", "us-ascii", "utf-16", "hex", "idna", "x"]
WORDS += ["name", "filename", "name*", "utf-8''x", "base64", "8bit", '"', "\\", ";", "=", " ", "\t"]
WORDS += ["\r\n ", "boundary", "%ff", "%00", "é", "0", "*0", "*1*", "multipart/mixed"]
VALUES = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=9).map("".join)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=3)
PARTS = st.lists(st.tuples(HEADERS, st.binary(max_size=9)), max_size=3)


def as_body(parts):
    """Return parts as the body of a form."""
    body = b""
    for headers, content in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        body += b"--b\r\n" + lines.encode("utf-8", "replace")
        body += b"\r\n" + content + b"\r\n"
    return body + b"--b--\r\n"


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_made_up_multipart_form_gives_201_or_400(api, alice, count):
    @settings(max_examples=count, deadline=None, database=None)
    @given(PARTS, st.booleans())
    def send(parts, with_name):
        body = as_body(parts)
        if with_name:
            body = multipart(("name", b"milk"))[: -len("--b--\r\n")] + body
        response = post_form(api, alice, body)
        if response.status_code != 201:
            assert_error(response, 400, "bad_request")

    send()
