"""The Flask app: its config, its error handlers, its tokens and the list of URLs.

`python app.py` runs it on your machine. In production uWSGI loads run.py, which loads this file.
"""

import functools
import os
import re
import threading
from datetime import timedelta

import pymongo
from bson import ObjectId
from flask import Flask, g, request
from flask_jwt_extended import JWTManager
from flask_jwt_extended.exceptions import JWTDecodeError
from flask_restful import Api
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, is_running_from_reloader

import db
from blacklist import BLACKLIST
from resources import errors, local_mongodb, settings
from resources.check_mongodb import check_mongodb
from resources.errors import error_response
from resources.fields import receive_body
from resources.todo import Todo, TodoList
from resources.user import TokenRefresh, User, UserLogin, UserLogout, UserRegister

# In seconds, from the arrival of the body. A response is promised within 5: while no MongoDB can be
# reached, PyMongo finds out up to half a second late that the deadline is over.
DEADLINE = 3.5


# The app and its config.


class TodoApp(Flask):
    """Flask for HTTP alone, with a log that names no user."""

    def create_url_adapter(self, request):
        """Return what finds the class for a URL.

        By default it finds none if the client offers to continue with a WebSocket. A server may
        ignore such an offer (RFC 9110, 7.8).
        """
        adapter = super().create_url_adapter(request)
        if adapter is not None:
            adapter.websocket = False
        return adapter

    def log_exception(self, exc_info):
        """Log a crash with its traceback. Flask would log the path, and /user/alice is one."""
        self.logger.error(
            "Exception on %s [%s]%s",
            request.url_rule,
            request.method,
            errors.request_id(),
            exc_info=exc_info,
        )


# No static folder: there are no files to serve.
app = TodoApp(__name__, static_folder=None)
app.config.update(
    JWT_SECRET_KEY=settings.JWT_SECRET_KEY,
    # An access token is in every request, so it expires soon. A refresh token is sent rarely, to
    # get the next access token.
    JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=15),
    JWT_REFRESH_TOKEN_EXPIRES=timedelta(days=30),
    # The only algorithm that is accepted. RFC 8725, 3.1: never let the token choose.
    JWT_DECODE_ALGORITHMS=["HS256"],
    # In seconds. The clock of the dyno that issued a token may be ahead. RFC 7519, 4.1.4 and 4.1.5.
    JWT_DECODE_LEEWAY=5,
    # No `csrf` claim, because only tokens in cookies need one.
    JWT_COOKIE_CSRF_PROTECT=False,
    # In bytes. The longest todo has 10,200 characters of up to 4 bytes each.
    MAX_CONTENT_LENGTH=64 * 1024,
    # A response is one line, even in debug mode, and in UTF-8: as escapes, such as \ud83e\udd5b, a
    # page of long todos would take three times the memory.
    RESTFUL_JSON={"indent": None, "ensure_ascii": False},
    # By default Flask answers OPTIONS itself, and not in JSON. With this setting it is a 405.
    PROVIDE_AUTOMATIC_OPTIONS=False,
    # run.py changes this: in production, Heroku's router is between the client and this process.
    BEHIND_ROUTER=False,
)
# By default Werkzeug redirects /user//alice, with an HTML page. With this setting it is a 404.
app.url_map.merge_slashes = False

db.init_app(app, settings.MONGODB_URI or local_mongodb.URI)


# Requests and responses.

app.before_request(receive_body)


@app.before_request
def ignore_accept():
    """Respond in JSON, whatever the client accepts.

    Flask-RESTful would read the header to choose a format. A long one takes up to 35 milliseconds,
    in which a worker does nothing else.
    """
    request.environ.pop("HTTP_ACCEPT", None)


@app.after_request
def add_headers(response):
    """Add the headers that every response has."""
    response.headers.update(errors.HEADERS)
    return response


# How many large responses a process keeps in memory at the same time, and from how many bytes on a
# response counts as large. The largest page has 6 MB, and a client may take its time to read it.
MOST_LARGE_RESPONSES = 20
LARGE = 256 * 1024
large_responses = threading.BoundedSemaphore(MOST_LARGE_RESPONSES)


@app.after_request
def limit_large_responses(response):
    """Replace a large response by a 503 while too many others are being sent."""
    if response.content_length is None or response.content_length < LARGE:
        return response
    if not large_responses.acquire(blocking=False):
        return error_response("server_busy", retry_after=2)
    response.call_on_close(large_responses.release)
    return response


def within_deadline(view):
    """Decorate a resource's function: all its operations of MongoDB together have DEADLINE seconds.

    A limit for each operation would not do: a login has up to seven.
    """

    @functools.wraps(view)
    def limited(*args, **kwargs):
        with pymongo.timeout(DEADLINE):
            return view(*args, **kwargs)

    return limited


# Errors. Wherever one happens, resources/errors.py builds the response.


@app.errorhandler(HTTPException)
def http_error(error):
    """Respond to an error that Flask or Werkzeug has raised: an unknown URL, or a crash.

    A crash comes here as a 500, after Flask has logged its traceback. (Under `python app.py` it
    does not come here: you see the debugger.)
    """
    return errors.response_to(error)


@app.errorhandler(PyMongoError)
def database_error(error):
    """Respond with 503 if MongoDB is unavailable. Any other error of a query is a bug: a 500."""
    description = db.describe(error)
    if not db.is_outage(error):
        # In place of the error, whose message can hold a username. The traceback stays.
        raise RuntimeError(description).with_traceback(error.__traceback__) from None
    errors.log_error(f"MongoDB: {description}")
    return error_response("database_unavailable", retry_after=2)


# Tokens. Flask-JWT-Extended calls these functions: its callbacks.

jwt = JWTManager(app)


@app.before_request
def read_authorization():
    """Check the form of the header Authorization, before Flask-JWT-Extended reads it.

    The library splits the header at commas, and some values crash it. It now finds exactly `Bearer`
    and one token, or no header, and then calls `no_token`.
    """
    # RFC 9110, 5.5: spaces and tabs around a header are not part of it.
    header = request.environ.pop("HTTP_AUTHORIZATION", "").strip(" \t")
    scheme, _, token = header.partition(" ")
    # RFC 9110, 11.1: the scheme is compared without case. The library compares it with case.
    if scheme.lower() == "bearer" and JWT.fullmatch(token):
        request.environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    else:
        g.authorization_error = authorization_error(scheme, token)


# RFC 7515, 7.1: three parts, each encoded for URLs. The third can be empty.
JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def authorization_error(scheme, token):
    """Return the code and the message for an Authorization header that is not a bearer token."""
    if scheme == "":
        return "authorization_required", None
    if scheme.lower() != "bearer":
        return "authorization_required", "Write Bearer and a space before the token."
    if token == "":
        return "authorization_required", "The token is missing. Write it behind Bearer."
    # A server passes on each byte of a header as one character (PEP 3333).
    token = token.encode("latin-1").decode("utf-8", "replace")
    for pattern, message in TOKEN_MISTAKES.items():
        if re.search(pattern, token, re.IGNORECASE):
            return "invalid_token", message
    return "invalid_token", "This is not a token. Send one that /login has returned."


# What clients send in place of a token, each with what to do.
TOKEN_MISTAKES = {
    "^bearer": "Bearer is there twice. Write it once.",
    "[\"'`\u00ab\u00bb\u2018-\u201f]": "Send the token without quotation marks.",
    "[{}$]": "Your client has not replaced its variable by a token. Log in first, in this client.",
    "[<>]": "Send the token itself, without < and >.",
    "^(undefined|null|none|nil|nan|false|true|\\[object object])$": (
        "Your client has no token in its variable. Log in first, in this client."
    ),
    r"\s|,": "Send one token, without spaces and commas, behind one space.",
}

# The claims of the tokens that this API issues, each with its type.
CLAIMS = {
    "sub": str,
    "sid": str,
    "jti": str,
    "type": str,
    "fresh": bool,
    "iat": int,
    "nbf": int,
    "exp": int,
}


@jwt.decode_key_loader
def decode_key(_header, claims):
    """Return the key that a token must be signed with. Raises JWTDecodeError.

    The library accepts claims of any type, and fills in some that are missing. It calls this
    function before it fills them in, so the claims are checked here exactly as the token has them.
    """
    check_claims(claims)
    return app.config["JWT_SECRET_KEY"]


def check_claims(claims):
    """Raise JWTDecodeError if a claim differs from the claims that this API issues."""
    for name, kind in CLAIMS.items():
        value = claims.get(name)
        if type(value) is not kind:
            raise JWTDecodeError("A claim is missing or has the wrong type.")
        # The API issues ASCII only. Another string can hold half a character, such as "\ud800",
        # which MongoDB rejects.
        if kind is str and not value.isascii():
            raise JWTDecodeError("A claim is malformed.")
    if claims["type"] not in ("access", "refresh"):
        raise JWTDecodeError("There is no such type of token.")
    if not ObjectId.is_valid(claims["sub"]):
        raise JWTDecodeError("The subject is not an id.")
    # `aud`, the audience, says for whom a token is meant. The tokens of this API have none.
    # RFC 8725, 3.9: reject a token that is meant for another audience.
    if "aud" in claims:
        raise JWTDecodeError("The token is meant for another audience.")


@jwt.token_in_blocklist_loader
def check_if_token_in_blacklist(_header, claims):
    """Return whether the token is revoked, because its session has ended."""
    return claims in BLACKLIST


@jwt.unauthorized_loader
def no_token(_reason):
    """Respond to a request without a bearer token where one is required."""
    return error_response(*g.authorization_error)


@jwt.invalid_token_loader
def invalid_token(_reason):
    """Respond to a token that has the wrong type, or that this API has not issued.

    The response does not say which of these it is.
    """
    return error_response("invalid_token")


@jwt.expired_token_loader
def expired_token(_header, _claims):
    """Respond to a token that is past its `exp`."""
    return error_response("token_expired")


@jwt.revoked_token_loader
def revoked_token(_header, _claims):
    """Respond to a token whose session has ended."""
    return error_response("token_revoked")


@jwt.needs_fresh_token_loader
def stale_token(_header, _claims):
    """Respond to a token from /refresh where a fresh one is required."""
    return error_response("fresh_token_required")


# URLs.


class ResourceApi(Api):
    """Flask-RESTful without its own error body, so that there is only one."""

    def error_router(self, original_handler, e):
        """Pass every error to Flask, which calls the error handlers above."""
        return original_handler(e)


api = ResourceApi(app, decorators=[within_deadline])
api.add_resource(UserRegister, "/register")
api.add_resource(User, "/user/<string:username>")
api.add_resource(UserLogin, "/login")
api.add_resource(UserLogout, "/logout")
api.add_resource(TokenRefresh, "/refresh")
api.add_resource(TodoList, "/todos")
api.add_resource(Todo, "/todos/<string:todo_id>")


# The development server.


class DevelopmentRequestHandler(WSGIRequestHandler):
    """Werkzeug's request handler, with one `100 Continue` for a client that expects one."""

    def handle_expect_100(self):
        """Send nothing here: Python's library calls this, and Werkzeug sends one later as well."""
        return True


if __name__ == "__main__":
    # The secret and the URI go into the environment, because the server runs this file again when
    # you save a change. It then finds the same secret and MongoDB, and your tokens stay valid.
    os.environ["JWT_SECRET_KEY"] = settings.JWT_SECRET_KEY
    if not settings.MONGODB_URI:
        local_mongodb.start_if_needed()
        os.environ["MONGODB_URI"] = local_mongodb.URI
    if not is_running_from_reloader():
        check_mongodb(DEADLINE)
    # Only this machine reaches 127.0.0.1. A client that reaches the debugger can run any code.
    app.run(
        host="127.0.0.1",
        port=int(settings.PORT),
        debug=True,
        request_handler=DevelopmentRequestHandler,
    )
