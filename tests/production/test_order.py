"""The order of the list, with todos from several workers."""

from concurrent.futures import ThreadPoolExecutor


def test_todos_from_several_workers_are_listed_once_and_in_order(api, alice):
    """A todo comes before each one that was sent after its response."""
    batches = []
    with ThreadPoolExecutor(8) as pool:
        for batch in range(6):
            todos = pool.map(lambda number, batch=batch: alice.add(f"{batch}-{number}"), range(8))
            batches.append({todo["name"] for todo in todos})
    listed, path = [], "/todos?limit=7"
    while path:
        page = api.get(path, alice.access).json()
        listed += [todo["name"] for todo in page["todos"]]
        path = page["next"]
    assert [set(listed[8 * batch : 8 * batch + 8]) for batch in range(6)] == batches
