"""Todos: add, read, change, delete. And the pages of the list.

test_access.py says who may call these routes, and what another user finds there.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, quote_plus, urlencode

import pytest
from bson import ObjectId
from support.clients import MISSING, User, assert_error, short
from support.processes import profiled

# Bodies, each with the name of the field that is wrong in it.
BAD_FIELDS = [
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": "   "}, "name"),
    ({"name": "\u2003\t\n"}, "name"),
    ({"name": None}, "name"),
    ({"name": 5}, "name"),
    ({"name": ["milk"]}, "name"),
    ({"name": {"$ne": ""}}, "name"),
    ({"name": "x", "description": "x" * 10_001}, "description"),
    ({"name": "x", "description": None}, "description"),
    ({"name": "x", "description": 1.5}, "description"),
    ({"name": "x", "description": {"$ne": ""}}, "description"),
    ({"name": "x", "done": "true"}, "done"),
    ({"name": "x", "done": 1}, "done"),
    ({"name": "x", "done": None}, "done"),
    ({"name": "x", "done": {"$ne": None}}, "done"),
    ({"name": "x", "id": MISSING}, "id"),
    ({"name": "x", "owner_id": MISSING}, "owner_id"),
    ({"name": "x", "created_at": "2026-11-22T15:45:11.123Z"}, "created_at"),
    ({"name": "x", "$set": {"done": True}}, "$set"),
    ({"name": "x", "name.x": 1}, "name.x"),
]


# POST /todos


@pytest.mark.smoke
def test_new_todo_is_returned_and_stored(api, database, alice):
    body = {"name": "milk", "description": "2 litres", "done": True}
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    response = api.post("/todos", alice.access, json=body)
    after = datetime.now(timezone.utc)
    assert response.status_code == 201
    todo = response.json()
    assert todo == {
        "id": todo["id"],
        "name": "milk",
        "description": "2 litres",
        "done": True,
        "created_at": todo["created_at"],
    }
    assert re.fullmatch("[0-9a-f]{24}", todo["id"])
    assert response.headers["Location"] == f"/todos/{todo['id']}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", todo["created_at"])
    created_at = datetime.fromisoformat(todo["created_at"])
    assert before <= created_at <= after
    # MongoDB stores the same fields, the id and the time as its own types.
    stored = {**todo, "_id": ObjectId(todo["id"]), "owner_id": ObjectId(alice.id)}
    stored["created_at"] = created_at.replace(tzinfo=None)
    del stored["id"]
    assert list(database.todos.find()) == [stored]


def test_new_todo_requires_only_a_name(alice):
    todo = alice.add("milk")
    assert (todo["description"], todo["done"]) == ("", False)


TEXTS = [
    {"name": "\U0001f95b" * 200},
    {"name": " milk \x00 "},
    {"name": "x", "description": "\U0001f95b" * 10_000},
    {"name": "x", "description": " \x00\n<script>$where"},
]


@pytest.mark.parametrize("fields", TEXTS, ids=short)
def test_text_is_stored_exactly(api, alice, fields):
    # As UTF-8. As JSON escapes, such as \ud83e\udd5b, the longest one would be over 64 KiB.
    body = json.dumps(fields, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    todo = api.post("/todos", alice.access, data=body, headers=headers).json()
    assert {name: todo[name] for name in fields} == fields
    assert api.get(f"/todos/{todo['id']}", alice.access).json() == todo


@pytest.mark.parametrize(("fields", "bad"), BAD_FIELDS, ids=short)
def test_new_todo_with_a_bad_field_gives_400(api, database, alice, fields, bad):
    response = api.post("/todos", alice.access, json=fields)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}
    assert not list(database.todos.find())


def test_new_todo_without_a_name_gives_400(api, database, alice):
    response = api.post("/todos", alice.access, json={"description": "x"})
    assert_error(response, 400, "bad_request", {"name": "Missing."})
    assert not list(database.todos.find())


# GET /todos/<id>


@pytest.mark.smoke
def test_owner_can_read_todo(api, alice):
    todo = alice.add()
    response = api.get(f"/todos/{todo['id']}", alice.access)
    assert response.status_code == 200
    assert response.json() == todo
    assert api.get(f"/todos/{todo['id'].upper()}", alice.access).json() == todo


# PUT /todos/<id>


CHANGES = [
    {"name": "bread"},
    {"description": "x"},
    {"done": True},
    {"description": ""},
    {"name": "a", "description": "b", "done": True},
]


@pytest.mark.smoke
@pytest.mark.parametrize("changes", CHANGES, ids=short)
def test_change_replaces_the_given_fields_and_keeps_the_others(api, alice, changes):
    todo, other = alice.add(description="2 litres"), alice.add("other")
    response = api.put(f"/todos/{todo['id']}", alice.access, json=changes)
    assert response.status_code == 200
    assert response.json() == {**todo, **changes}
    assert api.get("/todos", alice.access).json()["todos"] == [{**todo, **changes}, other]


@pytest.mark.parametrize(("fields", "bad"), BAD_FIELDS, ids=short)
def test_change_with_a_bad_field_gives_400_and_changes_nothing(api, alice, fields, bad):
    todo = alice.add()
    response = api.put(f"/todos/{todo['id']}", alice.access, json=fields)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}
    assert api.get(f"/todos/{todo['id']}", alice.access).json() == todo


def test_todo_as_get_returns_it_cannot_be_sent_back_whole(api, alice):
    """The error says what to leave out. Without it, the rest is a change."""
    todo = alice.add()
    path = f"/todos/{todo['id']}"
    message = dict.fromkeys(["id", "created_at"], "Cannot be changed. Leave it out.")
    for method, url in (("PUT", path), ("POST", "/todos")):
        response = api.request(method, url, alice.access, json={**todo, "done": True})
        assert_error(response, 400, "bad_request", message)
    assert api.get("/todos", alice.access).json()["todos"] == [todo]
    rest = {name: todo[name] for name in todo.keys() - message.keys()} | {"done": True}
    assert api.put(path, alice.access, json=rest).json() == {**todo, "done": True}


def test_change_without_fields_gives_400(api, alice):
    path = f"/todos/{alice.add()['id']}"
    for body in ({"json": {}}, {}):
        assert_error(api.put(path, alice.access, **body), 400, "bad_request")


def test_concurrent_changes_of_different_fields_all_take_effect(api, alice):
    changes = [{"name": "bread"}, {"description": "brown"}, {"done": True}]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            todo = alice.add()
            path = f"/todos/{todo['id']}"
            sent = [pool.submit(api.put, path, alice.access, json=change) for change in changes]
            assert [change.result().status_code for change in sent] == [200, 200, 200]
            expected = {**todo, "name": "bread", "description": "brown", "done": True}
            assert api.get(path, alice.access).json() == expected


# DELETE /todos/<id>


@pytest.mark.smoke
def test_deleted_todo_is_gone_and_others_stay(api, database, alice):
    todo, other = alice.add(), alice.add("other")
    path = f"/todos/{todo['id']}"
    response = api.delete(path, alice.access)
    assert response.status_code == 200
    assert response.json() == {"message": "Todo deleted."}
    assert_error(api.delete(path, alice.access), 404, "not_found")
    assert_error(api.get(path, alice.access), 404, "not_found")
    assert [str(stored["_id"]) for stored in database.todos.find()] == [other["id"]]


# GET /todos


MILLISECOND = timedelta(milliseconds=1)


def fill(database, user, count, start=datetime(2026, 1, 1), step=MILLISECOND, prefix=""):
    """Insert many todos of a user in any order; return their names in the order of the list.

    Their names are numbers behind a prefix, and each third one is done.
    """
    todos = []
    for number in range(count):
        todo = {"_id": ObjectId(), "owner_id": ObjectId(user.id), "name": f"{prefix}{number}"}
        todo |= {"description": "", "done": number % 3 == 0, "created_at": start + step * number}
        todos.append(todo)
    database.todos.insert_many(sorted(todos, key=lambda todo: hash(todo["_id"])))
    todos.sort(key=lambda todo: (todo["created_at"], todo["_id"]))
    return [todo["name"] for todo in todos]


def names_of(response):
    """Return the names of the todos on a page."""
    assert response.status_code == 200, response.text
    assert response.json().keys() == {"todos", "next"}
    return [todo["name"] for todo in response.json()["todos"]]


def pages(api, user, path):
    """Yield the names on each page, following the links."""
    while path:
        response = api.get(path, user.access)
        yield names_of(response)
        path = response.json()["next"]


@pytest.mark.smoke
def test_list_holds_only_the_callers_todos_oldest_first(api, alice, bob):
    own = [alice.add("first"), alice.add("second", description="x", done=True)]
    bob.add("not alice's")
    response = api.get("/todos", alice.access)
    assert response.status_code == 200
    assert response.json() == {"todos": own, "next": None}


def test_list_is_in_order_of_time_and_not_of_id(api, database, alice):
    common = {"owner_id": ObjectId(alice.id), "description": "", "done": False}
    older = {"_id": ObjectId("f" * 24), "name": "older", "created_at": datetime(2026, 1, 1)}
    newer = {"_id": ObjectId("0" * 24), "name": "newer", "created_at": datetime(2026, 1, 2)}
    database.todos.insert_many([newer | common, older | common])
    assert names_of(api.get("/todos", alice.access)) == ["older", "newer"]


SIZES = {"": [50, 50, 20], "?limit=100": [100, 20], "?limit=60": [60, 60], "?limit=3": 40 * [3]}


@pytest.mark.parametrize(("query", "sizes"), SIZES.items(), ids=["default", "100", "60", "3"])
def test_pages_have_the_given_size_and_the_last_has_no_next(api, database, alice, query, sizes):
    names = fill(database, alice, 120)
    found = list(pages(api, alice, "/todos" + query))
    assert [len(page) for page in found] == sizes
    assert sum(found, []) == names


@pytest.mark.parametrize("step", [timedelta(0), MILLISECOND], ids=["same time", "other times"])
@pytest.mark.parametrize("done", ["true", "false"])
def test_filter_applies_to_every_page(api, database, alice, done, step):
    names = fill(database, alice, 50, step=step)
    wanted = [name for name in names if (int(name) % 3 == 0) == (done == "true")]
    assert sum(pages(api, alice, f"/todos?done={done}&limit=5"), []) == wanted


def test_next_keeps_limit_and_filter(api, database, alice):
    fill(database, alice, 10)
    link = api.get("/todos?limit=2&done=false", alice.access).json()["next"]
    assert re.fullmatch(r"/todos\?limit=2&done=false&after=[\w.%-]+", link)
    assert "done" not in api.get("/todos?limit=2", alice.access).json()["next"]


def test_todos_of_the_same_millisecond_are_each_listed_once(api, database, alice):
    names = fill(database, alice, 23, step=timedelta(0))
    assert sum(pages(api, alice, "/todos?limit=4"), []) == names


def test_concurrent_changes_neither_hide_nor_repeat_a_todo_in_the_list(api, database, alice):
    names = fill(database, alice, 40)
    listed, deleted = [], set()
    for number, page in enumerate(pages(api, alice, "/todos?limit=5")):
        listed += page
        if number < 6:
            # Two that this page has listed, and one of a later page.
            gone = {page[0], page[-1], str(39 - number)}
            deleted |= gone
            database.todos.delete_many({"name": {"$in": list(gone)}})
            # One before all others, and one behind them.
            fill(database, alice, 1, start=datetime(2025, 1, 1), prefix="earlier ")
            alice.add("new")
    throughout = [name for name in names if name not in deleted]
    assert [name for name in listed if name in throughout] == throughout


BAD_LIMITS = ["0", "101", "-1", "+5", "1.0", "ten", "", "%D9%A3", "9" * 5000, "1&limit=2", "1%00"]
BAD_DONES = ["True", "1", "", "true&done=true"]
BAD_AFTERS = ["", "x", "WyJhIiwgImIiXQ.x", "%FF", "a.b.c", "x" * 5000]
BAD_QUERIES = [
    *[(f"limit={value}", "limit") for value in BAD_LIMITS],
    *[(f"done={value}", "done") for value in BAD_DONES],
    *[(f"after={value}", "after") for value in BAD_AFTERS],
    ("skip=5", "skip"),
    ("owner_id=x", "owner_id"),
    ("done[$ne]=true", "done[$ne]"),
    ("$where=1", "$where"),
]


@pytest.mark.parametrize(("query", "bad"), BAD_QUERIES, ids=short)
def test_bad_parameter_of_the_list_gives_400(api, alice, query, bad):
    response = api.get("/todos?" + query, alice.access)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {bad}


def test_all_bad_parameters_of_the_list_are_named(api, alice):
    response = api.get("/todos?limit=0&done=x&after=y&z=1", alice.access)
    assert_error(response, 400, "bad_request")
    assert response.json()["message"].keys() == {"limit", "done", "after", "z"}


def test_malformed_after_gives_400(api, database, alice):
    fill(database, alice, 3)
    link = api.get("/todos?limit=1", alice.access).json()["next"]
    assert api.get(link, alice.access).status_code == 200
    malformed = [
        link[:-1],
        link + "x",
        link[:-1] + "g",
        link.replace("after=", "after=x"),
        link.replace("after=2026", "after=26"),
        link.replace("after=2026", "after=99999"),
        link.replace("after=2026-01", "after=2026-13"),
        link.replace("Z_", "_"),
        # What Python's `strptime` accepts, and no link has.
        link.replace("-01-", "-1-"),
        link.replace("Z_", "z_"),
        link.replace("0000.", "000."),
        link.replace("2026", "%D9%A2%D9%A0%D9%A2%D9%A6"),
        re.sub(r"\.(\d\d)\d", r".\1", link),
        re.sub(r"\.(\d+)", r".\g<1>000", link),
        link.replace("Z_", "Z_ "),
        link.replace("after=2026", "after=2:026"),
        link + ":",
        re.sub("_(.*)", lambda found: found[0].upper(), link),
        link.replace("_", ""),
    ]
    assert link not in malformed
    for changed in malformed:
        assert_error(api.get(changed, alice.access), 400, "bad_request")


def test_next_works_however_a_client_encodes_it(api, database, alice):
    """Nothing in it needs encoding, so encoding it a second time changes nothing."""
    names = fill(database, alice, 6)
    link = api.get("/todos?limit=2&done=false", alice.access).json()["next"]
    path, _, query = link.partition("?")
    fields = dict(field.split("=") for field in query.split("&"))
    for value in fields.values():
        assert quote(value, safe="") == quote_plus(value, safe="") == value
    expected = api.get(link, alice.access).json()
    # Each third todo is done.
    assert [todo["name"] for todo in expected["todos"]] == names[4:]
    twice = "&".join(f"{name}={quote(quote(value))}" for name, value in fields.items())
    for sent in (urlencode(fields), twice, query.replace("-", "%2D").replace("_", "%5f")):
        assert api.get(f"{path}?{sent}", alice.access).json() == expected


def test_link_of_an_earlier_version_leads_to_the_same_page(api, database, alice):
    """Those have colons, encoded or not."""
    names = fill(database, alice, 5)
    link = api.get("/todos?limit=2", alice.access).json()["next"]
    after = re.search("after=(.*)$", link)[1]
    old = re.sub("T(..)(..)", r"T\1:\2:", after)
    assert re.fullmatch(r"[\d-]+T\d\d:\d\d:\d\d\.\d{3}Z_[0-9a-f]{24}", old)
    for value in (after, old, quote(old, safe="")):
        assert names_of(api.get(f"/todos?limit=2&after={value}", alice.access)) == names[2:4]


def test_after_of_another_user_shows_a_place_in_the_callers_list(api, database, alice, bob):
    fill(database, alice, 3)
    own = fill(database, bob, 3, prefix="bob's ")
    link = api.get("/todos?limit=2", alice.access).json()["next"]
    listed = names_of(api.get(link, bob.access))
    assert listed
    assert listed == own[-len(listed) :]


def test_after_that_a_client_made_up_shows_a_place_in_its_list(api, database, alice):
    names = fill(database, alice, 3)
    start = f"/todos?after=0001-01-01T00:00:00.000Z_{'0' * 24}"
    end = f"/todos?after=9999-12-31T23:59:59.999Z_{'f' * 24}"
    assert names_of(api.get(start, alice.access)) == names
    assert api.get(end, alice.access).json() == {"todos": [], "next": None}


# The cost of a query.


@pytest.fixture
def indexes(api):
    """The indexes of a database in which a user has registered."""
    User(api, "carol")


@pytest.mark.parametrize("path", ["/todos?limit=10", "/todos?limit=10&done=true"])
def test_every_page_costs_the_same(api, indexes, database, alice, bob, path):
    for user in (alice, bob):
        fill(database, user, 1000)
    found = pages(api, alice, path)
    recorded = profiled(database, lambda: [next(found) for _ in range(30)])
    costs = [query for query in recorded if query["ns"] == "test.todos"]
    assert len(costs) == 30
    for cost in costs:
        assert cost["planSummary"].startswith("IXSCAN")
        assert cost["keysExamined"] <= 13
        assert cost["docsExamined"] <= 13


def test_every_query_uses_an_index(api, indexes, database, alice):
    path = f"/todos/{alice.add()['id']}"

    def send_everything():
        alice.login()
        api.post("/refresh", alice.refresh)
        api.get("/user/alice", alice.access)
        api.get(path, alice.access)
        api.put(path, alice.access, json={"done": True})
        api.delete(path, alice.access)
        api.get("/todos?done=true", alice.access)
        alice.add()
        api.delete("/user/alice", alice.access)

    recorded = profiled(database, send_everything)
    queries = [operation for operation in recorded if "planSummary" in operation]
    assert len(queries) > 10
    for query in queries:
        assert query["planSummary"].startswith(("IXSCAN", "IDHACK", "EXPRESS")), query
