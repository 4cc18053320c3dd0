"""The resources, which answer requests: `user.py` for users and sessions, `todo.py` for todos.

Their helpers: `fields.py` reads requests, `passwords.py` hashes passwords, `rate_limits.py` counts
attempts, and `local_mongodb.py` starts a MongoDB on a developer's machine.

This file makes the folder a package, so that `from resources.todo import TodoList` works.
"""
