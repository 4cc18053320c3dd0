"""No database has two users of one name, and what an operator has to repair is a 503 and a line."""

from collections import Counter

import pytest
from pymongo import MongoClient
from support.actions import change_password, code, log_in, register, unless_busy
from support.clients import PASSWORD, InsertedUser, assert_error, at_once
from support.processes import Mongod, wait_for

pytestmark = pytest.mark.slow

UNAVAILABLE = (503, "database_unavailable")


@pytest.fixture
def server(own_mongod, start):
    return start(own_mongod.uri, WEB_CONCURRENCY="2")


@pytest.fixture
def database(own_mongod):
    with MongoClient(own_mongod.uri) as client:
        yield client.get_default_database()


def lines(server):
    """Return the lines that the server has logged about MongoDB."""
    return [line for line in server.log.read_text().splitlines() if "MongoDB" in line]


def assert_unavailable(server, responses, secret):
    """Assert that each of these is a 503, with a line in the log that does not hold the secret."""
    for response in responses:
        assert_error(response, *UNAVAILABLE)
    wait_for(lambda: len(lines(server)) >= len(responses))
    assert len(lines(server)) == len(responses)
    assert secret not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


# What an operator may drop while the server runs.


def drop_database(database):
    database.client.drop_database(database.name)


def drop_users(database):
    database.users.drop()


def drop_index(database):
    database.users.drop_index("username_1")


def restore_users(database):
    """Replace the collection by one without indexes, as some tools for backups do."""
    database.restored.insert_one({"username": "restored"})
    database.restored.rename("users", dropTarget=True)


@pytest.mark.parametrize("drop", [drop_database, drop_users, drop_index, restore_users])
def test_name_is_unique_after_operator_has_dropped(server, database, drop):
    assert register(server, "first").status_code == 201
    drop(database)
    responses = [register(server, "alice") for _ in range(3)]
    assert [response.status_code for response in responses] == [201, 409, 409]
    drop(database)
    database.users.delete_many({})
    # At the same time, on two workers.
    responses = at_once(20, unless_busy, register, server, "alice")
    assert Counter(map(code, responses)) == {"success": 1, "username_taken": 19}
    assert database.users.count_documents({"username": "alice"}) == 1


# What an operator has to repair.


def test_contradictory_index_registers_nobody_until_it_is_dropped(server, database):
    database.users.create_index("username")
    responses = [register(server, "alice") for _ in range(3)]
    assert_unavailable(server, responses, "alice")
    assert "drop it in mongosh" in lines(server)[0]
    assert database.users.count_documents({}) == 0
    drop_index(database)
    assert [register(server, "alice").status_code for _ in range(2)] == [201, 409]


def test_index_of_another_name_does_not_stand_in_for_the_unique_one(server, database):
    database.users.create_index("username", name="by_name")
    assert [register(server, "alice").status_code for _ in range(3)] == [201, 409, 409]


def test_two_users_of_one_name_register_nobody_until_one_is_deleted(server, database):
    # From a backup that was restored twice, for example.
    twins = [InsertedUser(server, database, "twin") for _ in range(2)]
    responses = [register(server, name) for name in ("alice", "twin")]
    assert_unavailable(server, responses, "twin")
    assert "delete one" in lines(server)[0]
    # All else goes on.
    for twin in twins:
        assert server.get("/user/twin", twin.access).json()["id"] == twin.id
        twin.add()
    assert log_in(server, "twin", PASSWORD).status_code == 200
    database.users.delete_one({"username": "twin"})
    assert register(server, "alice").status_code == 201
    assert_error(register(server, "twin"), 409, "username_taken")


def test_database_of_other_case_gives_503_and_advice(own_mongod, start, database):
    assert database.name == "test"
    database.users.insert_one({"username": "first"})
    server = start(own_mongod.uri.replace("/test", "/TEST"), WEB_CONCURRENCY="1")
    assert_unavailable(server, [register(server, "alice"), log_in(server, "alice")], "alice")
    assert "change MONGODB_URI" in lines(server)[0]


def test_name_of_collection_that_is_a_view_gives_503(server, database):
    database.create_collection("users", viewOn="others", pipeline=[])
    assert_unavailable(server, [register(server, "alice")], "alice")


@pytest.fixture
def closed_mongod(tmp_path):
    """A MongoDB in which a user may only read, and another one may do everything."""
    mongod = Mongod(tmp_path / "closed", ["--auth"])
    with MongoClient(mongod.uri) as client:
        # MongoDB lets an unknown client create the first user.
        client.admin.command("createUser", "operator", pwd="operate", roles=["root"])
    with MongoClient(uri_of(mongod, "operator:operate")) as client:
        roles = [{"role": "read", "db": "test"}]
        client.admin.command("createUser", "reader", pwd="read", roles=roles)
        mongod.database = client.test
        yield mongod
    mongod.kill()


def uri_of(mongod, user):
    return mongod.uri.replace("://", f"://{user}@") + "?authSource=admin"


def test_user_of_mongodb_who_may_only_read_gives_503_and_advice(closed_mongod, start):
    server = start(uri_of(closed_mongod, "reader:read"), WEB_CONCURRENCY="1")
    alice = InsertedUser(server, closed_mongod.database, "alice")
    assert server.get("/todos", alice.access).status_code == 200
    responses = [
        register(server, "alice"),
        log_in(server, "alice", PASSWORD),
        change_password(server, alice),
        server.post("/todos", alice.access, json={"name": "x"}),
        server.post("/logout", alice.access),
    ]
    assert_unavailable(server, responses, "alice")
    assert all("readWrite" in line for line in lines(server))


@pytest.mark.parametrize("user", ["reader:mistyped-secret", "nobody:mistyped-secret"])
def test_wrong_user_of_mongodb_gives_503_and_advice(closed_mongod, start, user):
    server = start(uri_of(closed_mongod, user), WEB_CONCURRENCY="1")
    alice = InsertedUser(server, closed_mongod.database, "alice")
    responses = [server.get("/user/alice", alice.access), register(server, "alice")]
    assert_unavailable(server, responses, "alice")
    # Later lines say that PyMongo waits for a MongoDB that accepts it.
    assert "authSource=admin" in lines(server)[0]
    assert "mistyped-secret" not in server.log.read_text()


def test_mongodb_that_requires_a_user_gives_503_and_advice(closed_mongod, start):
    server = start(closed_mongod.uri, WEB_CONCURRENCY="1")
    assert_unavailable(server, [register(server, "alice"), log_in(server, "alice")], "alice")


def test_validator_of_operator_gives_503_without_the_document(server, database):
    database.create_collection("users", validator={"email": {"$type": "string"}})
    assert_unavailable(server, [register(server, "alice")], "alice")
