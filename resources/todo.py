"""Todos: add, list, get, change, delete. A user reaches no todo of another user."""

import re
from datetime import datetime, timezone
from urllib.parse import urlencode

from bson import ObjectId
from bson.errors import InvalidId
from flask import request
from flask_jwt_extended import get_jwt, get_jwt_header, get_jwt_identity, jwt_required
from flask_jwt_extended.exceptions import RevokedTokenError
from flask_restful import Resource
from pymongo import ReturnDocument

import db
from blacklist import BLACKLIST
from resources.errors import fail
from resources.fields import boolean, read_body, read_query, set_by_server, string


def name_field(value):
    """Check a todo's name: 1 to 200 characters, not all of them white space."""
    string(value, shortest=1, longest=200)
    if value.strip() == "":
        raise ValueError("Must not be blank.")
    return value


def description_field(value):
    """Check a todo's description: up to 10,000 characters."""
    return string(value, longest=10_000)


# A client that sends back the whole todo that it got learns to leave out the last two.
FIELDS = {
    "name": name_field,
    "description": description_field,
    "done": boolean,
    "id": set_by_server,
    "created_at": set_by_server,
}


def represent(todo):
    """Return a todo as the client sees it, built field by field, so that no other field leaks."""
    return {
        "id": str(todo["_id"]),
        "name": todo["name"],
        "description": todo["description"],
        "done": todo["done"],
        "created_at": time_text(todo["created_at"]),
    }


def time_text(time):
    """Return a time in UTC as RFC 3339 writes it, such as 2026-11-22T15:45:11.123Z."""
    # The Z means UTC. PyMongo returns UTC in a datetime without a time zone.
    return time.isoformat(timespec="milliseconds") + "Z"


def owner_id():
    """Return the id of the user whose token came with the request."""
    return ObjectId(get_jwt_identity())


def owned(todo_id):
    """Return the filter for this todo of the caller. Aborts with 404 if `todo_id` is not an id.

    Look-up and ownership are one query. If they were two, a developer could forget the second one,
    and every user could read every todo.
    """
    if not ObjectId.is_valid(todo_id):
        fail("not_found", "Todo not found.")
    return {"_id": ObjectId(todo_id), "owner_id": owner_id()}


def or_404(todo):
    """Return the todo that a query has found. Aborts with 404 if it has found none.

    A todo of another user gets the same response as one that does not exist. A 403 would reveal
    that it exists.
    """
    if todo is None:
        fail("not_found", "Todo not found.")
    return todo


class Todo(Resource):
    """/todos/<todo_id>: one of the caller's todos."""

    @jwt_required()
    def get(self, todo_id):
        """Respond with the todo. Requires an access token. Aborts with 404."""
        todo = db.todos().find_one(owned(todo_id))
        return represent(or_404(todo))

    @jwt_required()
    def put(self, todo_id):
        """Change the given fields, keep the others, and respond with the todo.

        Requires an access token. Aborts with 400 or 404.
        """
        changes = read_body(FIELDS)
        if not changes:
            fail("bad_request", "Send at least one of name, description and done.")
        # One atomic operation, so two concurrent changes of different fields both take effect.
        todo = db.todos().find_one_and_update(
            owned(todo_id), {"$set": changes}, return_document=ReturnDocument.AFTER
        )
        return represent(or_404(todo))

    @jwt_required()
    def delete(self, todo_id):
        """Delete the todo. Requires an access token. Aborts with 404."""
        todo = db.todos().find_one_and_delete(owned(todo_id))
        or_404(todo)
        return {"message": "Todo deleted."}


def limit_field(value):
    """Check the size of a page: a number from 1 to 100, in plain digits."""
    if not re.fullmatch("[1-9][0-9]?|100", string(value)):
        raise ValueError("Must be a number from 1 to 100.")
    return int(value)


def after_field(value):
    """Check an `after`: the place of the last todo that the client has seen, from `next_link`.

    Returns the time and the id of this todo. An `after` needs no signature: a client that makes one
    up sees a place in its own list and nothing else.
    """
    time, _, last_id = string(value).partition("_")
    try:
        last = datetime.strptime(time.replace(":", ""), "%Y-%m-%dT%H%M%S.%fZ"), ObjectId(last_id)
    except (ValueError, InvalidId):
        last = None
    # `strptime` accepts more, such as a month of one digit. Links of earlier versions have colons.
    if last is None or value not in (place_in_list(*last), place_in_list(*last, colons=True)):
        raise ValueError("Must come from the next link of a page.")
    return last


def place_in_list(created_at, todo_id, colons=False):
    """Return the place of a todo in its list, as an `after` names it."""
    time = time_text(created_at)
    # Without colons, nothing in it needs encoding: some clients encode the link a second time.
    return f"{time if colons else time.replace(':', '')}_{todo_id}"


def next_link(last):
    """Return the path and query of the page that comes after the todo `last`."""
    after = place_in_list(last["created_at"], last["_id"])
    return "/todos?" + urlencode({**request.args, "after": after})


class TodoList(Resource):
    """/todos: all of the caller's todos."""

    @jwt_required()
    def get(self):
        """Respond with one page, oldest first, and the link to the next one.

        Requires an access token. Aborts with 400.
        """
        query = read_query({"limit": limit_field, "done": boolean, "after": after_field})
        limit = query.get("limit", 50)

        wanted = {}
        if "done" in query:
            wanted["done"] = query["done"]
        if "after" in query:
            created_at, last_id = query["after"]
            # Only todos after the last one that the client has seen. `$gte` leaves out earlier
            # times, and says where in the index to begin. Of the same time, `$or` requires a
            # greater id.
            wanted["created_at"] = {"$gte": created_at}
            wanted["$or"] = [{"created_at": {"$gt": created_at}}, {"_id": {"$gt": last_id}}]
        # The owner is set last, so that nothing above can replace it with another user's id.
        wanted["owner_id"] = owner_id()

        # By time, and by id if the time is the same. Not by id alone: the ids that several
        # processes create within a second are in no order. Not with `skip`: MongoDB would read all
        # earlier todos, and if one of them is deleted, the next page would miss a todo.
        todos = db.todos().find(wanted).sort([("created_at", 1), ("_id", 1)])
        # One more than the page holds. If it exists, there is a next page.
        todos = list(todos.limit(limit + 1))
        page = todos[:limit]
        link = None
        if len(todos) > limit:
            link = next_link(page[-1])
        return {"todos": [represent(todo) for todo in page], "next": link}

    @jwt_required()
    def post(self):
        """Add a todo, and respond with 201 and the todo.

        Requires an access token. Aborts with 400.
        """
        fields = read_body(FIELDS, required=["name"])
        todo = {
            "owner_id": owner_id(),
            "name": fields["name"],
            "description": fields.get("description", ""),
            "done": fields.get("done", False),
            # In UTC and without a time zone, as PyMongo returns it later.
            "created_at": datetime.now(timezone.utc).replace(tzinfo=None),
        }
        # PyMongo adds the `_id` to the dictionary.
        db.todos().insert_one(todo)
        reject_if_revoked_since(todo)
        return represent(todo), 201, {"Location": f"/todos/{todo['_id']}"}


def reject_if_revoked_since(todo):
    """Delete the new todo, and raise RevokedTokenError, if the session has ended since the check.

    `jwt_required` checks the token before the insert. If the user is deleted between that check and
    the insert, the deletion can miss this todo, which would stay forever. But a deletion ends the
    sessions before it deletes todos. Therefore, if it comes too early to find this todo, the query
    below finds that the session has ended.

    The check before the insert is needed as well. Without it, a client with a revoked token could
    make the server write, and the todo would stay if the query below failed. With the check, that
    takes an end of the session and a failure within the same milliseconds.
    """
    claims = get_jwt()
    if claims in BLACKLIST:
        db.todos().delete_one({"_id": todo["_id"]})
        raise RevokedTokenError(get_jwt_header(), claims)
