"""Many requests in flight at the same time, without a thread for each."""

import json
import selectors
import socket
import time


class Flight:
    """Requests to a server: all of them are sent before the first response is read."""

    def __init__(self, server, requests):
        """Send requests, each given as (method, path, token, body)."""
        self.selector = selectors.DefaultSelector()
        self.received = {}
        for method, path, token, body in requests:
            connection = socket.create_connection(("127.0.0.1", server.port))
            content = json.dumps(body).encode()
            head = [
                f"{method} {path} HTTP/1.1",
                "Host: 127.0.0.1",
                f"Authorization: Bearer {token}",
                "Content-Type: application/json",
                f"Content-Length: {len(content)}",
            ]
            connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
            self.received[connection] = (time.monotonic(), bytearray())
            self.selector.register(connection, selectors.EVENT_READ)

    def land(self, count=None):
        """Wait for all responses, or for so many; return (seconds, status, body) of each."""
        landed = []
        while self.received and len(landed) != count:
            for key, _ in self.selector.select():
                sent, data = self.received[key.fileobj]
                if part := key.fileobj.recv(65536):
                    data += part
                else:
                    landed.append((time.monotonic() - sent, *self.parse(data)))
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
                    del self.received[key.fileobj]
        return landed

    @staticmethod
    def parse(data):
        """Return the status and the body of a response."""
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body)
