"""The settings, from environment variables. A wrong one ends the process with one line.

app.py, db.py and run.py read them here. WEB_CONCURRENCY is read by uwsgi.ini alone.
"""

import os
import re
import secrets
import sys

import jwt

# MongoDB keeps its own data in these databases.
RESERVED_DATABASES = {"admin", "config", "local"}
# A command that prints a good secret, for messages.
NEW_SECRET = "python -c 'import secrets; print(secrets.token_hex())'"


def read(name):
    """Return an environment variable without the white space around it, "" if it is not set."""
    value = os.environ.get(name, "").strip()
    try:
        value.encode()
    except UnicodeEncodeError:
        # Python keeps a byte that is not UTF-8 as half of a character.
        sys.exit(f"{name} must be UTF-8: type it again, or copy it again")
    return value


def read_port():
    """Return the port to listen on, a string of digits. Ends the process if it is not a port."""
    # Not stripped, because uWSGI reads PORT as well, and would read another number.
    port = os.environ.get("PORT", "5000")
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        sys.exit("PORT must be a number from 1 to 65535, or not be set at all")
    return port


def read_database_name(uri):
    """Return the name of the database in a connection string, "" if it names none.

    Ends the process if the name is one that this API does not use. MongoDB allows more characters.
    But a stray character is a mistake, and would silently choose another database.
    """
    # The name is between the hosts and the options, which can contain a / as well.
    name = uri.partition("://")[2].partition("?")[0].partition("/")[2]
    if not re.fullmatch("[A-Za-z0-9_-]{0,63}", name):
        sys.exit(
            "MONGODB_URI must name a database of 1 to 63 letters, digits, _ and -, or none at all"
        )
    if name.lower() in RESERVED_DATABASES:
        sys.exit(
            f"MONGODB_URI must not name the database {name}, which is MongoDB's own: write"
            f" /todolistapp in place of /{name}, and ?authSource={name} if users are stored there"
        )
    return name


def read_secret():
    """Return the key that signs tokens. Ends the process if PyJWT does not sign with it."""
    # On your machine, a new key for each start will do. `require_production` requires a lasting
    # one.
    secret = read("JWT_SECRET_KEY") or secrets.token_hex(32)
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        # A public key is known to others, who could sign tokens with it.
        sys.exit(f"JWT_SECRET_KEY must be random text, not a PEM or SSH key: {NEW_SECRET}")
    return secret


def require_production():
    """End the process with one line if a setting is missing that production needs."""
    # RFC 7518, 3.2: HS256 requires a key of at least 256 bits, which is 32 bytes.
    if len(read("JWT_SECRET_KEY").encode()) < 32:
        sys.exit(f"JWT_SECRET_KEY must be set, to at least 32 bytes: {NEW_SECRET}")
    if not MONGODB_URI:
        sys.exit(
            "MONGODB_URI must be set, for example to mongodb+srv://USER:PASSWORD@HOST/todolistapp"
        )


PORT = read_port()
# "" if it is not set: then `python app.py` finds or starts a MongoDB.
MONGODB_URI = read("MONGODB_URI")
# "" if the URI names none.
DATABASE = read_database_name(MONGODB_URI)
JWT_SECRET_KEY = read_secret()
