"""The resources, which answer requests: `user.py` for users and sessions, `todo.py` for todos.

Their helpers: `fields.py` reads requests, `errors.py` has the errors, `passwords.py` hashes
passwords, `rate_limits.py` counts attempts, and `settings.py` reads the environment.
`uwsgi_worker.py` adapts the app to uWSGI. `local_mongodb.py` and `check_mongodb.py` are for a
developer's machine, and `reset_password.py` is a command for the operator.

This file marks the folder as a package of this project.
"""
