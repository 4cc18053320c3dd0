"""How a request is read: the one place that knows JSON bodies, forms and queries.

A field's check is a function. It takes a value, and returns it or raises ValueError with a sentence
for the client. A resource names its fields, each with its check, and gets back only values that
have passed.

Flask-RESTful's own `reqparse` is deprecated, and it converts what should be refused: a list becomes
its first element, an object its text, and a JSON array as the whole body crashes it.
"""

import json
import re
from urllib.parse import unquote_to_bytes

from flask import request
from flask_restful import abort

JSON = "application/json"
URLENCODED_FORM = "application/x-www-form-urlencoded"
MULTIPART_FORM = "multipart/form-data"


# Checks.


def string(value, shortest=0, longest=None):
    """Check one value: a string, of `shortest` to `longest` characters."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    if longest is not None and not shortest <= len(value) <= longest:
        raise ValueError(f"Must have {shortest} to {longest} characters.")
    # In JSON a client can spell half of a character, such as "\ud800". MongoDB cannot store it.
    if re.search("[\ud800-\udfff]", value):
        raise ValueError("Must be valid Unicode, without lone surrogates.")
    return value


def boolean(value):
    """Check one value: true or false. Not 0, 1, "yes" or null."""
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


def boolean_from_text(text):
    """What the texts `true` and `false` stand for. Any other stays what it is: a mistake."""
    if text == "true":
        return True
    if text == "false":
        return False
    return text


# In a form or a query everything is text. The value for one of these checks has to be made from it.
FROM_TEXT = {boolean: boolean_from_text}


# Reading.


def read_body(fields, required=()):
    """The fields of a JSON object or a form, checked.

    `fields` maps each name to its check; `required` names those that must be there. Aborts with 400
    if the body cannot be parsed or a field is wrong, and with 415 if it is neither JSON nor a form.
    """
    refuse_chunks()
    # Before anything else: whoever asks Flask for the form first gets no body any more.
    body = request.get_data()
    if request.mimetype == JSON:
        values = parse_json(body)
    elif request.mimetype in (URLENCODED_FORM, MULTIPART_FORM):
        refuse_other_encodings(body)
        # A file is in no case what a field wants. It stays in, so that its name is in the answer.
        values = values_from_text(request.form, fields) | dict(request.files)
    elif body:
        abort(415, message="Send a JSON object (Content-Type: application/json) or a form.")
    else:
        values = {}
    return checked(values, fields, required)


def read_query(fields):
    """The parameters after the `?` of the URL, checked as in `read_body`. All are optional."""
    return checked(values_from_text(request.args, fields), fields)


def refuse_chunks():
    """Abort with 400 if the body comes in chunks and the server does not join them.

    uWSGI does not, and would show us an empty body. The development server does, and says so with
    `wsgi.input_terminated`.
    """
    in_chunks = "Transfer-Encoding" in request.headers
    joined = request.environ.get("wsgi.input_terminated", False)
    if in_chunks and not joined:
        abort(400, message="Send the body in one piece, with a Content-Length.")


def parse_json(body):
    """The object that a JSON body stands for. Aborts with 400."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        # RecursionError is what `[[[[...` raises, thousands of brackets deep.
        abort(400, message="The body cannot be parsed.")
    if not isinstance(values, dict):
        abort(400, message="The body must be a JSON object.")
    return values


def refuse_other_encodings(body):
    """Abort with 400 if a form is not in UTF-8.

    Werkzeug puts a question mark in the place of each byte that it cannot decode. A password would
    be stored as another one.
    """
    if request.mimetype == URLENCODED_FORM:
        body = unquote_to_bytes(body)
    try:
        body.decode()
    except UnicodeDecodeError:
        abort(400, message="The body cannot be parsed.")


def values_from_text(pairs, fields):
    """A form or a query, as the JSON object with the same meaning."""
    values = {}
    for name, texts in pairs.lists():
        from_text = FROM_TEXT.get(fields.get(name))
        if len(texts) > 1:
            # The name was given twice. No check takes a list, so it is refused.
            values[name] = texts
        elif from_text is not None:
            values[name] = from_text(texts[0])
        else:
            values[name] = texts[0]
    return values


def checked(values, fields, required=()):
    """The values, if all of them pass. Aborts with a 400 that names every bad field at once."""
    good = {}
    errors = {}
    for name, value in values.items():
        if name not in fields:
            errors[name] = "Unknown field."
            continue
        check = fields[name]
        try:
            good[name] = check(value)
        except ValueError as error:
            errors[name] = str(error)
    for name in required:
        if name not in values:
            errors[name] = "Missing."
    if errors:
        abort(400, message=errors)
    return good
