"""How a request is read: the one place that knows JSON, forms and queries.

Flask-RESTful's reqparse cannot keep the contract: before it asks a `type=` function it has taken the first element of
a list, skipped null, refused a form with 415 and crashed at a JSON array. This does less, and converts nothing.
"""

import json
import re
from urllib.parse import unquote_to_bytes

from flask import request
from flask_restful import abort


def string(value, shortest=0, longest=None):
    """Check one value: a string, of so many characters. Raises ValueError with a sentence for the client."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    if not shortest <= len(value) <= (longest or len(value)):
        raise ValueError(f"Must have {shortest} to {longest} characters.")
    if re.search(
        "[\ud800-\udfff]", value
    ):  # JSON can spell half a character, which MongoDB cannot hold.
        raise ValueError("Must be valid Unicode, without lone surrogates.")
    return value


def boolean(value):
    """Check one value: true or false. Not 0, 1, "yes" or null."""
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


def read_body(fields, required=()):
    """The fields of a JSON object or a form, checked. `fields` maps each name to its check, `required` names those
    that must be there. Aborts with 400, 413 or 415."""
    if request.headers.get("Transfer-Encoding") and not request.environ.get(
        "wsgi.input_terminated"
    ):
        abort(
            400, message="Send the body in one piece, with a Content-Length."
        )  # uWSGI would show it as empty.
    try:
        values = _values(request.get_data(), fields)
    except (ValueError, RecursionError):  # The latter is JSON nested thousands deep.
        abort(400, message="The body cannot be parsed.")
    if not isinstance(values, dict):
        abort(400, message="The body must be a JSON object.")
    return _checked(values, fields, required)


def read_query(fields):
    """The parameters behind the `?`, checked as in `read_body`. All are optional."""
    return _checked(_from_text(request.args, fields), fields)


def _values(body, fields):
    """The body as what its content type says. Raises ValueError or RecursionError where it is not that."""
    if request.mimetype == "application/json":
        return json.loads(body)
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        # Decoded for the error only: Werkzeug replaces bytes that are no UTF-8, and so would change a password.
        (unquote_to_bytes(body) if "urlencoded" in request.mimetype else body).decode()
        return _from_text(request.form, fields) | dict(request.files)
    if body:
        abort(415, message="Send a JSON object (Content-Type: application/json) or a form.")
    return {}


def _from_text(pairs, fields):
    """A form or query as the JSON object it stands for. A name given twice becomes a list, which no check takes."""
    values = {name: texts[0] if len(texts) == 1 else texts for name, texts in pairs.lists()}
    for name in values:
        if fields.get(name) is boolean:
            values[name] = {"true": True, "false": False}.get(
                str(values[name])
            )  # str: a list cannot be looked up.
    return values


def _checked(values, fields, required=()):
    """All errors at once, so that a client mends its request in one go."""
    errors = {name: "Unknown field." for name in values if name not in fields}
    errors |= {name: "Missing." for name in required if name not in values}
    checked = {}
    for name, check in fields.items():
        if name in values:
            try:
                checked[name] = check(values[name])
            except ValueError as error:
                errors[name] = str(error)
    if errors:
        abort(400, message=errors)
    return checked
