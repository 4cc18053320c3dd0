"""Give a user who has forgotten the password a new one: python -m resources.reset_password alice

For the operator, on a machine or a dyno that has the API's MONGODB_URI. An attacker who knew the
old password may have logged in with it, so the sessions and the own addresses end, as they do when
the user changes the password.
"""

import argparse
import secrets
import sys

import pymongo
from flask import Flask
from pymongo.errors import PyMongoError

import db
from resources import passwords
from resources.check_mongodb import URI, explain
from resources.user import USERNAME

# In seconds.
DEADLINE = 10


def reset_password(username):
    """Store a new password of the user, and return it. Returns None if there is no such user."""
    if not USERNAME.fullmatch(username):
        return None
    password = secrets.token_urlsafe(12)
    fields = {"password": passwords.hash_password(password), "sessions": [], "addresses": []}
    # One atomic operation, so that a login with the old password, in progress at this time, fails.
    result = db.users().update_one({"username": username}, {"$set": fields})
    return password if result.matched_count else None


def main():
    """Read the username from the command line, and print the new password."""
    parser = argparse.ArgumentParser("python -m resources.reset_password", description=__doc__)
    parser.add_argument("username")
    username = parser.parse_args().username
    db.init_app(Flask(__name__), URI)
    try:
        with pymongo.timeout(DEADLINE):
            password = reset_password(username)
    except PyMongoError as error:
        sys.exit(f"MongoDB: {explain(error)}. Then run this command again")
    if password is None:
        sys.exit(f"There is no user {username!r}. Upper and lower case count")
    print(f"The new password of {username}: {password}")


if __name__ == "__main__":
    main()
