"""A MongoDB of another kind: a real one, behind a port that changes what it says."""

import contextlib
import socket
import struct
import threading

# What a MongoDB says of itself when a client connects: a number of its protocol. 17 is MongoDB 6.0.
# PyMongo speaks to 9, which is MongoDB 4.4, and newer.
WIRE_VERSION = b"maxWireVersion\0"


def version(number):
    """Return the bytes in which a MongoDB says the number of its protocol."""
    return WIRE_VERSION + struct.pack("<i", number)


class Disguise:
    """A port that passes on all bytes between its clients and a MongoDB, and replaces some.

    `replacements` are bytes in MongoDB's responses, each with other bytes of the same length.
    """

    def __init__(self, mongod_port, replacements, address=("127.0.0.1", 0)):
        self.mongod_port, self.replacements = mongod_port, replacements
        self.listener = socket.create_server(address)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                mongod = socket.create_connection(("127.0.0.1", self.mongod_port))
                self.start(client, mongod, {})
                self.start(mongod, client, self.replacements)

    def start(self, source, target, replacements):
        threading.Thread(
            target=self.pass_on, args=(source, target, replacements), daemon=True
        ).start()

    @staticmethod
    def pass_on(source, target, replacements):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for old, new in replacements.items():
                    data = data.replace(old, new)
                target.sendall(data)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
