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
from urllib.parse import unquote_to_bytes

from flask import current_app, request
from flask_restful import abort
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_input_stream

try:
    # uWSGI puts this module into the processes that it runs; pip cannot install it.
    import uwsgi
except ImportError:
    uwsgi = None

JSON = "application/json"
URLENCODED_FORM = "application/x-www-form-urlencoded"
MULTIPART_FORM = "multipart/form-data"


# Checks.


def string(value, shortest=0, longest=None):
    """Check a value: a string of `shortest` to `longest` characters."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    if longest is not None and not shortest <= len(value) <= longest:
        raise ValueError(f"Must have {shortest} to {longest} characters.")
    # In JSON a client can spell half of a character, such as "\ud800". MongoDB cannot store it.
    if re.search("[\ud800-\udfff]", value):
        raise ValueError("Must be valid Unicode, without lone surrogates.")
    return value


def boolean(value):
    """Check a value: true or false. Not 0, 1, "yes" or null."""
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


# Receiving.


def receive_body():
    """Receive the whole body, before anything else happens. Aborts with 400 or 413.

    The body is received even if no resource reads it, and even if it is too large. A client can
    miss a response that comes while the client is still sending.
    """
    in_chunks = "Transfer-Encoding" in request.headers
    if not in_chunks and not request.content_length:
        return
    if in_chunks and uwsgi:
        # A client that does not know the length in advance sends chunks, each with its length.
        # uWSGI does not join them by itself.
        parts = iter(uwsgi.chunked_read, b"")
    else:
        stream = get_input_stream(request.environ)
        parts = iter(lambda: stream.read(64 * 1024), b"")
    most = current_app.config["MAX_CONTENT_LENGTH"]
    body = b""
    try:
        for part in parts:
            # Of a body that is too large, the rest is read and dropped.
            if len(body) <= most:
                body += part
    except (ClientDisconnected, OSError):
        abort(400, message="The body has not arrived completely. Send it again.")
    if len(body) > most:
        abort(413)
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


def read_body(fields, required=()):
    """Return the checked fields of a JSON object or a form.

    `fields` maps each name to its check; `required` names those that must be present. Aborts with
    400 if the body cannot be parsed or a field is wrong, and with 415 if it is neither JSON nor a
    form, or compressed.
    """
    # First, because Flask returns no body once it has read the form.
    body = request.get_data()
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        abort(415, message="Send the body uncompressed, without the header Content-Encoding.")
    if request.mimetype == JSON:
        values = parse_json(body)
    elif request.mimetype in (URLENCODED_FORM, MULTIPART_FORM):
        reject_other_encodings(body)
        # No field accepts a file. A file is kept here, so that the error names its field.
        pairs = [*request.form.items(multi=True), *request.files.items(multi=True)]
        values = values_from_text(pairs, fields)
    elif body:
        abort(415, message="Send a JSON object (Content-Type: application/json) or a form.")
    else:
        values = {}
    return checked(values, fields, required)


def read_query(fields):
    """Return the parameters after the `?` of the URL, checked as in `read_body`; all optional."""
    return checked(values_from_text(request.args.items(multi=True), fields), fields)


def parse_json(body):
    """Return the object of a JSON body. Aborts with a 400 that says what is wrong, and where."""
    if not body:
        abort(400, message="The body is empty. Send a JSON object.")
    try:
        # `-sig` skips the byte order mark that some editors write first.
        values = json.loads(body.decode("utf-8-sig"), object_pairs_hook=without_repeats)
    except UnicodeDecodeError as error:
        abort(400, message=f"The body is not UTF-8: see byte {error.start + 1}.")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        abort(400, message=f"The body is not JSON: {error.msg} ({place}).")
    except ValueError:
        # Python converts no integer of more than 4,300 digits.
        abort(400, message="The body holds a number that is too long.")
    except RecursionError:
        abort(400, message="The body holds too many brackets within brackets.")
    if not isinstance(values, dict):
        abort(400, message="The body must be a JSON object, such as {}.")
    return values


def reject_other_encodings(body):
    """Abort with 400 if a form is not in UTF-8.

    Werkzeug does not reject a byte that it cannot decode: it replaces it, or keeps its escape, such
    as %FF. The API would then store another password than the client has sent.
    """
    if request.mimetype == URLENCODED_FORM:
        body = unquote_to_bytes(body)
    try:
        body.decode()
    except UnicodeDecodeError:
        abort(400, message="The form is not UTF-8. Encode its characters as UTF-8.")


def values_from_text(pairs, fields):
    """Return the pairs of a form or a query as the JSON object with the same meaning."""
    values = without_repeats(pairs)
    for name, text in values.items():
        # All values are text here, so this one type has to be converted.
        if fields.get(name) is boolean and text in ("true", "false"):
            values[name] = text == "true"
    return values


def checked(values, fields, required=()):
    """Return the values if all of them pass. Aborts with a 400 that names every bad field."""
    good = {}
    errors = {}
    for name, value in values.items():
        if value is REPEATED:
            errors[name] = "Must be given only once."
        elif name not in fields:
            errors[name] = "Unknown field."
        else:
            try:
                good[name] = fields[name](value)
            except ValueError as error:
                errors[name] = str(error)
    for name in required:
        if name not in values:
            errors[name] = "Missing."
    if errors:
        abort(400, message=errors)
    return good
