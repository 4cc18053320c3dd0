"""What the clients of the production tests do, each from an address that the test can choose."""

import itertools

from support.clients import NEW_PASSWORD, PASSWORD, ROUTES, new_address
from support.processes import wait_for


def register(server, username, address=None):
    """Register a user, from a new address unless one is given."""
    body = {"username": username, "password": PASSWORD}
    return server.post("/register", json=body, headers=router_header(address))


def log_in(server, username, password="wrong password", address=None):
    """Log in, by default with a wrong password and from a new address."""
    body = {"username": username, "password": password}
    return server.post("/login", json=body, headers=router_header(address))


def change_password(server, user, token=None, current=PASSWORD, new=NEW_PASSWORD, address=None):
    """Replace a user's password, by default with the user's first access token."""
    body = {"current_password": current, "password": new}
    path = f"/user/{user.name}"
    return server.put(path, token or user.access, json=body, headers=router_header(address))


def delete_user(server, user, token=None):
    """Delete a user, by default with the user's first access token."""
    return server.delete(f"/user/{user.name}", token or user.access)


def router_header(address):
    """Return the header in which Heroku's router reports the address of the client."""
    return {"X-Forwarded-For": address or new_address()}


def code(response):
    """Return the error code of a response, or "success"."""
    return response.json().get("error", "success")


def unless_busy(send, *arguments):
    """Send a request until the server is not too busy for a hash, and return the response."""

    def sent():
        response = send(*arguments)
        # In a list, because a response with an error status is false.
        return [response] if code(response) != "server_busy" else None

    return wait_for(sent)[0]


def tokens_of(response):
    """Return the access token and the refresh token of a new session."""
    assert response.status_code == 200, response.text
    return response.json()["access_token"], response.json()["refresh_token"]


def is_valid(server, access, refresh):
    """Return whether the tokens of a session are valid. Either both of them are, or neither is."""
    codes = {code(server.get("/todos", access)), code(server.post("/refresh", refresh))}
    assert codes in ({"success"}, {"token_revoked"})
    return codes == {"success"}


def every_request(server, users):
    """Return a function for each route that sends a well-formed request, of each user in turn.

    Some requests end all sessions of their user.
    """

    def sender(route, user):
        path = route.path.replace("alice", user.name)
        body = route.body and {
            name: user.name if value == "alice" else value for name, value in route.body.items()
        }
        token = {None: None, "refresh": user.refresh}.get(route.token, user.access)
        return lambda: server.request(route.method, path, token, json=body)

    return [sender(route, user) for route, user in zip(ROUTES, itertools.cycle(users))]
