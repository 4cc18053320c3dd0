"""The resources: one module for users and their sessions, one for todos, one for reading their requests.

This file makes the folder a package, so that `from resources.todo import TodoList` works from the root.
"""
