"""How a request is read: JSON bodies, forms and queries.

A field's check is a function. It returns the value that it is called with, perhaps converted, or
raises ValueError with a sentence for the client. A resource names its fields, each with its check,
and gets back only values that have passed.

Flask-RESTful's own `reqparse` is deprecated, and it converts what should be rejected: a list
becomes its first element, an object its text, and a JSON array as the whole body crashes it.
"""

import io
import json
import re
from urllib.parse import parse_qsl

from flask import current_app, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header
from werkzeug.wsgi import get_input_stream

from resources.errors import fail

JSON = "application/json"
URLENCODED_FORM = "application/x-www-form-urlencoded"
MULTIPART_FORM = "multipart/form-data"

# Reading a thousand parts takes tens of milliseconds, in which a process does nothing else.
MOST_FORM_FIELDS = 1000
LONGEST_BOUNDARY = 70
# In bytes. Under `python app.py`, a body that is too large is received up to here.
MOST_RECEIVED = 10 * 1024 * 1024
# Of a body with more bad fields, the error names only so many, because it is for a person. It has
# only the beginning of a long name.
MOST_ERRORS = 20
LONGEST_NAME = 100


# Checks.


class FormText(str):
    """A value of a form or a query, where all values are text."""


def string(value, shortest=0, longest=None):
    """Check a value: a string of `shortest` to `longest` characters. `None` means any number."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    if len(value) < shortest or (longest is not None and len(value) > longest):
        raise ValueError(f"Must have {shortest} to {longest or 'any number of'} characters.")
    # In JSON a client can spell half of a character, such as "\ud800". MongoDB cannot store it.
    if re.search("[\ud800-\udfff]", value):
        raise ValueError("Must be valid Unicode, without lone surrogates.")
    return str(value)


def boolean(value):
    """Check a value: true or false, in a form the words. Not 0, 1, "yes" or null."""
    if isinstance(value, FormText):
        value = {"true": True, "false": False}.get(value)
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


def set_by_server(_value):
    """Reject a field that a response has, and that only the server sets."""
    raise ValueError("Cannot be changed. Leave it out.")


# Receiving.


def receive_body():
    """Receive the whole body, before anything else happens. Aborts with 400 or 413.

    The body is received even if no resource reads it, and even if it is too large. A client can
    miss a response that comes while the client is still sending.
    """
    most = current_app.config["MAX_CONTENT_LENGTH"]
    stream = get_input_stream(request.environ)
    body = bytearray()
    size = 0
    try:
        while size <= MOST_RECEIVED and (part := stream.read(64 * 1024)):
            size += len(part)
            # Of a body that is too large, the rest is read and dropped.
            if size <= most:
                body += part
    except (ClientDisconnected, OSError):
        fail("bad_request", "The body has not arrived completely. Send it again.")
    if size > most:
        fail("request_too_large")
    # From here Flask reads it, as a body that ends where the stream ends.
    request.environ["wsgi.input"] = io.BytesIO(body)
    request.environ["wsgi.input_terminated"] = True


# Reading.


# Stands for the values of a name that a body or a query gives more than once.
REPEATED = object()


def without_repeats(pairs):
    """Return a dictionary of (name, value) pairs. A name that is repeated gets the value REPEATED.

    Python's own `dict` keeps the last value. Another program may keep the first one, and an
    attacker can use the difference (RFC 8259, 4).
    """
    values = {}
    for name, value in pairs:
        values[name] = REPEATED if name in values else value
    return values


def read_body(fields, required=(), check_together=None):
    """Return the checked fields of a JSON object or a form.

    `fields` maps each name to its check; `required` names those that must be present.
    `check_together` is called with the fields that have passed, and returns further errors. Aborts
    with 400 if the body cannot be parsed or a field is wrong, and with 415 if it is neither JSON
    nor a form, or compressed.
    """
    body = request.get_data(cache=False)
    if request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        message = "Send the body uncompressed, without the header Content-Encoding."
        fail("unsupported_media_type", message)
    if request.mimetype == JSON:
        values = parse_json(body)
    elif request.mimetype == URLENCODED_FORM:
        values = without_repeats(parse_urlencoded(body))
    elif request.mimetype == MULTIPART_FORM:
        values = without_repeats(parse_multipart(body))
    elif body:
        fail("unsupported_media_type", other_content_type())
    else:
        values = {}
    return checked(values, fields, required, check_together)


def read_query(fields):
    """Return the parameters after the `?` of the URL, checked as in `read_body`; all optional."""
    try:
        pairs = request.args.items(multi=True)
    except UnicodeDecodeError:
        fail("bad_request", "The query of the URL is not UTF-8. Encode its characters as UTF-8.")
    return checked(without_repeats((name, FormText(text)) for name, text in pairs), fields)


def other_content_type():
    """Return the sentence about a content type that is neither JSON nor a form."""
    arrived = request.content_type
    # In full, because the client may not know what it sends: a library adds the header.
    found = f"The Content-Type that arrived is {arrived[:200]!r}" if arrived else "There is none"
    return f"Send a JSON object (Content-Type: {JSON}) or a form. {found}."


def decoded(body, what):
    """Return the body as text. Aborts with 400 if it is not UTF-8; `what` names it."""
    # Python's own guess, by the zeros in the first bytes. UTF-16 without a byte order mark passes
    # for UTF-8: it would become text with a zero behind each letter.
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        name = encoding[:6].upper()
        fail("bad_request", f"The {what} is not UTF-8 (this looks like {name}). Send UTF-8.")
    try:
        # `-sig` skips the byte order mark that some editors write first.
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail("bad_request", f"The {what} is not UTF-8: see byte {error.start + 1}. Send UTF-8.")


def parse_json(body):
    """Return the object of a JSON body. Aborts with a 400 that says what is wrong, and where."""
    if not body:
        fail("bad_request", "The body is empty. Send a JSON object.")
    text = decoded(body, "body")
    try:
        values = json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        fail("bad_request", f"The body is not JSON: {error.msg} ({place}).")
    except ValueError:
        # Python converts no integer of more than 4,300 digits.
        fail("bad_request", "The body holds a number that is too long.")
    except RecursionError:
        fail("bad_request", "The body holds too many brackets within brackets.")
    if not isinstance(values, dict):
        fail("bad_request", "The body must be a JSON object, such as {}.")
    return values


def parse_urlencoded(body):
    """Return the (name, text) pairs of a form such as name=milk&done=true. Aborts with 400."""
    text = decoded(body, "form")
    if text.lstrip().startswith(("{", "[")):
        # What `curl -d` and axios do without the header.
        fail("bad_request", f"The Content-Type says that this is a form. Send {JSON} for JSON.")
    try:
        # Not Flask's `form`, which keeps an escape such as %FF as three characters. The API would
        # then store another password than the client has sent.
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FORM_FIELDS
        )
    except UnicodeDecodeError:
        fail("bad_request", "The form is not UTF-8. Encode its characters as UTF-8.")
    except ValueError:
        reject_number_of_fields()
    if not all(name.isascii() and value.isascii() for name, value in pairs):
        require_utf8(request.mimetype_params.get("charset"))
    return [(name, FormText(value)) for name, value in pairs]


def parse_multipart(body):
    """Return the (name, text) pairs of a form in parts, files as bytes. Aborts with 400."""
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary:
        fail(
            "bad_request",
            "The Content-Type of this form has no boundary. Do not write this header yourself:"
            " the library that sends the form writes it, with the boundary.",
        )
    # RFC 2046, 5.1.1. Python compiles each boundary, and keeps hundreds of the results in memory.
    if len(boundary) > LONGEST_BOUNDARY:
        fail("bad_request", f"The boundary has more than {LONGEST_BOUNDARY} characters.")
    decoded(body, "form")
    parser = Utf8PartsParser(max_form_parts=MOST_FORM_FIELDS)
    try:
        form, files = parser.parse(io.BytesIO(body), boundary.encode("ascii"), len(body))
    except RequestEntityTooLarge:
        reject_number_of_fields()
    except ValueError:
        fail(
            "bad_request",
            "The form is cut off or malformed: it must consist of parts with the boundary of its"
            " Content-Type before each, and -- behind the last boundary.",
        )
    pairs = [(name, FormText(text)) for name, text in form.items(multi=True)]
    # No field accepts a file. A file is kept here, so that the error names its field.
    pairs += files.items(multi=True)
    if any(name is None for name, _ in pairs):
        fail("bad_request", "A part of the form has no name.")
    return pairs


class Utf8PartsParser(MultiPartParser):
    """Werkzeug's parser for forms in parts, for parts in UTF-8 alone.

    Flask's `form` decodes a part by the charset that the part names, and replaces what does not
    fit. Every Cyrillic password in a part of us-ascii would become the same question marks.
    """

    def get_part_charset(self, headers):
        """Return the charset of a part. Aborts with 400 if it is not UTF-8."""
        _, parameters = parse_options_header(headers.get("Content-Type"))
        require_utf8(parameters.get("charset"))
        encoding = headers.get("Content-Transfer-Encoding", "8bit")
        if encoding.lower() not in ("7bit", "8bit", "binary"):
            fail("bad_request", "Send the parts of the form without Content-Transfer-Encoding.")
        return "utf-8"


def require_utf8(charset):
    """Abort with 400 if a form or a part of it names a charset that is not UTF-8."""
    # Not `codecs.lookup`, which keeps every name that it does not know in memory, forever.
    if charset is not None and charset.lower() not in ("utf-8", "utf8"):
        fail("bad_request", f"The form names the charset {charset[:40]!r}. Send UTF-8.")


def reject_number_of_fields():
    """Abort with 400 because of too many fields in a form."""
    fail("bad_request", f"The form has more than {MOST_FORM_FIELDS:,} fields.")


def checked(values, fields, required=(), check_together=None):
    """Return the values if all of them pass. Aborts with a 400 that names every bad field."""
    good = {}
    errors = {name: "Missing." for name in required if name not in values}
    for name, value in values.items():
        if value is REPEATED:
            errors[name[:LONGEST_NAME]] = "Must be given only once."
        elif name not in fields:
            errors[name[:LONGEST_NAME]] = "Unknown field."
        else:
            try:
                good[name] = fields[name](value)
            except ValueError as error:
                errors[name] = str(error)
    if check_together is not None:
        errors |= check_together(good)
    if errors:
        fail("bad_request", dict(list(errors.items())[:MOST_ERRORS]))
    return good
