"""What answers requests: `user.py` for users and their sessions, `todo.py` for todos.

They are helped by `fields.py`, which reads what a client sends, `passwords.py`, which makes and
compares hashes, and `guesses.py`, which counts wrong passwords. `local_mongodb.py` starts a MongoDB
on a developer's machine.

This file makes the folder a package, so that `from resources.todo import TodoList` works.
"""
