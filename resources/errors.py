"""The errors: their codes, the response for each, and what the log says of them."""

import json
import re

from flask import Response, abort, current_app, request

# For each code, which is for a program, the status and the message, which is for a person.
ERRORS = {
    "bad_request": (400, "The request cannot be understood."),
    "authorization_required": (401, "Send a token: Authorization: Bearer <token>"),
    "invalid_token": (401, "This token is not valid here. Log in again."),
    "token_expired": (401, "This token has expired. Get a new one from /refresh or /login."),
    "token_revoked": (401, "This session has ended. Log in again."),
    "fresh_token_required": (401, "This request requires a fresh token. Log in again."),
    "invalid_credentials": (401, "Wrong username or password."),
    "not_found": (404, "Nothing is at this URL. README.md lists all URLs: see API reference."),
    "method_not_allowed": (405, "This URL does not accept this method. See the header Allow."),
    "username_taken": (409, "This username is taken. Choose another one."),
    "request_too_large": (413, "The body is larger than 64 KiB. Send a smaller one."),
    "unsupported_media_type": (415, "The body is neither JSON nor a form."),
    "too_many_attempts": (429, "Too many attempts. Wait as many seconds as Retry-After says."),
    "internal_error": (500, "This is a bug in the server. It has been logged."),
    "database_unavailable": (503, "The database is unavailable. Try again soon."),
    "server_busy": (503, "The server is busy. Try again soon."),
}

# The statuses of the errors that Werkzeug, the library below Flask, raises in this app.
CODES_OF_WERKZEUG = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
}

# Every response has these headers: OWASP REST Security Cheat Sheet.
HEADERS = {
    # No cache may keep a response, because it holds tokens or what only its owner may see.
    "Cache-Control": "no-store",
    # A browser must take the body for JSON, whatever it looks like.
    "X-Content-Type-Options": "nosniff",
    # A browser that gets this over HTTPS uses only HTTPS here for a year (31,536,000 seconds).
    "Strict-Transport-Security": "max-age=31536000",
}


def fail(code, message=None, retry_after=None):
    """End the request with an error of the table. `error_response` explains the parameters."""
    abort(error_response(code, message, retry_after))


def error_response(code, message=None, retry_after=None):
    """Return the response for an error of the table.

    `message` replaces the one of the table; it can be a dictionary {field: sentence}. `retry_after`
    says after how many seconds the client may send the request again.
    """
    status, default = ERRORS[code]
    body = json.dumps({"message": message or default, "error": code}) + "\n"
    response = Response(body, status, HEADERS, content_type="application/json")
    if status == 401:
        # RFC 9110, 11.6.1: a 401 names the kind of authorization that is required.
        response.headers["WWW-Authenticate"] = "Bearer"
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def response_to(error):
    """Return the response for an HTTPException of Werkzeug, such as an unknown URL."""
    response = error_response(CODES_OF_WERKZEUG[error.code])
    if error.code == 405 and error.valid_methods:
        # RFC 9110, 15.5.6: a 405 names the methods that are allowed.
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def log_error(message):
    """Log an error that an operator has to look into. `message` holds nothing about a user."""
    current_app.logger.error("%s%s", message, request_id())


def request_id():
    """Return Heroku's id of the request for the log, "" if there is none.

    The router's log has the same id. A client can send the header as well, so only the form that
    Heroku writes is logged.
    """
    value = request.headers.get("X-Request-ID", "")
    found = re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value)
    return f" request_id={value}" if found else ""
