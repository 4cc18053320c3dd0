"""The exercises of the book can be solved: each solution here passes the tests of its exercise."""

import re

import pytest
from support.project import Project

pytestmark = pytest.mark.slow

EXERCISES = "tests/api/exercises.py"
FILTERS = "tests/documents/test_filters.py"
TODO = "resources/todo.py"


def solve_delete_done(project):
    method = '''
    @jwt_required()
    def delete(self):
        """Delete the caller's todos that are done. Requires an access token. Aborts with 400."""
        query = read_query({"done": boolean})
        if query != {"done": True}:
            # Otherwise a client that forgets the parameter would delete all todos.
            fail("bad_request", {"done": "Must be true."})
        result = db.todos().delete_many({"owner_id": owner_id(), "done": True})
        return {"message": "Deleted.", "deleted": result.deleted_count}


'''
    project.replace(TODO, r"\n\n(?=def reject_if_revoked_since)", method)


def solve_due_date(project):
    check = '''\
def due_field(value):
    """Check a todo's due date: a date such as 2026-12-24, or None."""
    if value is None:
        return None
    string(value)
    try:
        datetime.strptime(value, "%Y-%m-%d")
    except ValueError:
        raise ValueError("Must be a date such as 2026-12-24.") from None
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("Must be a date such as 2026-12-24.")
    return str(value)


'''
    comment = (
        "# A client that sends back the whole todo that it got learns to leave out the last two."
    )
    project.add_before(TODO, comment, check)
    project.add_after(TODO, '    "done": boolean,', '    "due": due_field,\n')
    stored = '            "done": fields.get("done", False),'
    project.add_after(TODO, stored, '            "due": fields.get("due"),\n')
    shown = '        "done": todo["done"],'
    project.add_after(TODO, shown, '        "due": todo.get("due"),\n')
    accepted = '"done": boolean, "after"'
    project.replace(TODO, accepted, '"done": boolean, "due": due_field, "after"')
    wanted = '        if "due" in query:\n            wanted["due"] = query["due"]\n'
    project.add_after(TODO, '            wanted["done"] = query["done"]', wanted)


def solve_cors(project):
    project.append("resources/settings.py", 'CORS_ORIGIN = read("CORS_ORIGIN")\n')
    secret = "    JWT_SECRET_KEY=settings.JWT_SECRET_KEY,"
    project.add_after("app.py", secret, "    CORS_ORIGIN=settings.CORS_ORIGIN,\n")
    functions = '''\
def is_from_cors_origin():
    """Return whether a script of the one site that may use this API sends the request."""
    origin = app.config["CORS_ORIGIN"]
    return origin != "" and request.headers.get("Origin") == origin


@app.before_request
def answer_preflight():
    """Allow what a browser announces with OPTIONS before a request of that site."""
    announced = "Access-Control-Request-Method" in request.headers
    if request.method == "OPTIONS" and announced and is_from_cors_origin():
        return app.response_class(status=204)
    return None


@app.after_request
def add_cors_headers(response):
    """Let scripts of that site read the response."""
    if is_from_cors_origin():
        response.headers["Access-Control-Allow-Origin"] = app.config["CORS_ORIGIN"]
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Access-Control-Expose-Headers"] = "Location, Retry-After"
    return response


'''
    project.add_before(
        "app.py", "# Tokens. Flask-JWT-Extended calls these functions: its callbacks.", functions
    )


def solve_idempotency_key(project):
    line = '                IndexModel([("owner_id", 1), ("created_at", 1), ("_id", 1)]),'
    index = """\
                IndexModel(
                    [("owner_id", 1), ("idempotency_key", 1)],
                    unique=True,
                    # Only the todos that have a key.
                    partialFilterExpression={"idempotency_key": {"$exists": True}},
                ),
"""
    project.add_after("db.py", line, index)
    project.add_after(
        TODO,
        "from pymongo import ReturnDocument",
        "from pymongo.errors import DuplicateKeyError\n",
    )
    function = '''\
def idempotency_key():
    """Return the fields that a todo has because of the header Idempotency-Key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return {}
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", key):
        fail("bad_request", "Idempotency-Key must have 1 to 64 letters, digits, . _ or -.")
    return {"idempotency_key": key}


'''
    project.add_before(TODO, "class TodoList(Resource):", function)
    project.replace(
        TODO,
        "            # In UTC and without a time zone, as PyMongo returns it later.\n",
        "            **idempotency_key(),\n"
        "            # In UTC and without a time zone, as PyMongo returns it later.\n",
    )
    old = "        db.todos().insert_one(todo)\n        reject_if_revoked_since(todo)\n"
    new = """\
        try:
            db.todos().insert_one(todo)
        except DuplicateKeyError:
            # An earlier request with this key has added it. It is not this request's to delete.
            names = ("owner_id", "idempotency_key")
            todo = or_404(db.todos().find_one({name: todo[name] for name in names}))
        else:
            reject_if_revoked_since(todo)
"""
    project.replace(TODO, re.escape(old), new)


def solve_if_match(project):
    row = '    "username_taken": (409, "This username is taken. Choose another one."),'
    new = '    "precondition_failed": (412, "The todo has changed. Get it again."),\n'
    project.add_after("resources/errors.py", row, new)
    functions = '''\
def entity_tag(todo):
    """Return the header with the version of a todo. A todo without one has version 0."""
    return {"ETag": f'"{todo.get("version", 0)}"'}


def if_match():
    """Return the filter for the version that the header If-Match names."""
    tag = request.headers.get("If-Match")
    if tag is None:
        return {}
    number = re.fullmatch('"([0-9]{1,9})"', tag)
    version = int(number[1]) if number else -1
    # None finds a todo without a version.
    return {"version": version or None}


'''
    project.add_before(TODO, "class Todo(Resource):", functions)
    found = """\
        todo = db.todos().find_one(owned(todo_id))
        return represent(or_404(todo))
"""
    project.replace(
        TODO,
        re.escape(found),
        "        todo = or_404(db.todos().find_one(owned(todo_id)))\n"
        "        return represent(todo), 200, entity_tag(todo)\n",
    )
    old = r"            owned\(todo_id\), \{\"\$set\": changes\}.*?represent\(or_404\(todo\)\)\n"
    new = """\
            owned(todo_id) | if_match(),
            {"$set": changes, "$inc": {"version": 1}},
            return_document=ReturnDocument.AFTER,
        )
        if todo is None and if_match():
            or_404(db.todos().find_one(owned(todo_id)))
            fail("precondition_failed")
        return represent(or_404(todo)), 200, entity_tag(todo)
"""
    project.replace(TODO, old, new)
    location = r"""{"Location": f"/todos/{todo['_id']}"}"""
    project.replace(TODO, re.escape(location), f"{location} | entity_tag(todo)")


# For each word that follows -k in the book.
SOLUTIONS = {
    "delete_done": solve_delete_done,
    "due_date": solve_due_date,
    "cors": solve_cors,
    "idempotency_key": solve_idempotency_key,
    "if_match": solve_if_match,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project."""
    return Project(tmp_path_factory.mktemp("exercises") / "project")


@pytest.fixture(scope="module")
def unsolved(project):
    """The names of the tests of the exercises that fail without the solutions."""
    return project.failing(EXERCISES)


@pytest.fixture(scope="module")
def solved(project, unsolved):
    """The copy with all solutions, except for the index of the due date."""
    for solve in SOLUTIONS.values():
        solve(project)
    return project


@pytest.mark.parametrize("word", SOLUTIONS)
def test_exercise_is_not_solved_yet(unsolved, word):
    assert [name for name in unsolved if name.startswith(f"test_{word}")]


def test_solutions_pass_the_tests_of_their_exercises(solved):
    assert solved.failing(EXERCISES) == set()


def test_solutions_change_one_other_test_of_todos(solved):
    assert solved.failing("tests/api/test_todos.py") == {"test_new_todo_is_returned_and_stored"}


def test_filter_of_the_due_date_needs_an_index(solved):
    by_hand = "test_reference_names_every_parameter_of_the_list"
    assert solved.failing(FILTERS) == {by_hand, "test_every_filter_has_an_example"}
    example = '    "due": ("2026-12-24", {"due": "2026-12-24"}),\n'
    solved.add_after(FILTERS, '    "done": ("true", {"done": True}),', example)
    assert solved.failing(FILTERS) == {by_hand, "test_filter_reads_only_what_it_finds"}
    line = (
        '                IndexModel([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)]),'
    )
    solved.add_after("db.py", line, line.replace("done", "due") + "\n")
    assert solved.failing(FILTERS) == {by_hand}
