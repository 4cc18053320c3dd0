"""A proxy before MongoDB, in which a test holds, loses or answers the operations of a server."""

import contextlib
import socket
import struct
import threading

import bson
from support.processes import free_port

# MongoDB's protocol: each message begins with its length, two ids and its kind.
HEADER = struct.Struct("<iiii")
OP_MSG = 2013


def version(number):
    """Return the bytes in which a MongoDB says the number of its protocol.

    17 is MongoDB 6.0. PyMongo speaks to 9, which is MongoDB 4.4, and newer.
    """
    return b"maxWireVersion\0" + struct.pack("<i", number)


class Proxy:
    """Passes on everything between a server and its MongoDB, except for the chosen operations.

    A fail point can do less: it holds an operation for a fixed time, and of each server that uses
    this MongoDB; and some errors end a MongoDB that is told to respond with them.

    `replacements` are bytes in MongoDB's responses, each with other bytes of the same length.
    """

    def __init__(self, mongod, replacements=None, port=None):
        """Begin to accept connections to this MongoDB."""
        self.mongod, self.lock, self.released = mongod, threading.Lock(), threading.Event()
        self.replacements, self.port = replacements or {}, port or free_port()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.uri = mongod.uri.replace(str(mongod.port), str(self.port))
        self.let_pass()
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        """Accept no more connections."""
        self.let_pass()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    # What a test decides. Operations are counted from 0, beginning with this decision.

    def let_pass(self):
        """Let all operations pass, including one that is held."""
        self.choose(None, None, commands=())

    def hold(self, number):
        """Hold this operation until `let_pass`."""
        self.choose(Connection.hold, number)

    def lose(self, number, commands=None):
        """Close the connection of this operation before MongoDB gets it."""
        self.choose(Connection.lose, number, commands)

    def lose_reply(self, number, commands=None):
        """Close the connection of this operation after MongoDB has executed it."""
        self.choose(Connection.lose_reply, number, commands)

    def answer(self, reply, commands, number=None):
        """Respond to an operation with `reply`, a document. MongoDB does not get the operation."""
        self.choose(Connection.answer, number, commands, reply)

    def choose(self, action, number, commands=None, *arguments):
        """Choose an operation by its number, None for all, among these commands, None for all."""
        with self.lock:
            self.released.set()
            self.reached, self.released = threading.Event(), threading.Event()
            self.number, self.commands, self.count = number, commands, 0
            self.action, self.arguments = action, (*arguments, self.released)

    # Passing on.

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                Connection(self, client, socket.create_connection(("127.0.0.1", self.mongod.port)))

    def pass_on(self, connection, message):
        """Pass a message on to MongoDB, unless it is a chosen operation."""
        with self.lock:
            action = self.action if self.is_chosen(message) else None
            arguments = self.arguments
        if action is None:
            connection.mongod.sendall(message)
        else:
            action(connection, message, *arguments)

    def is_chosen(self, message):
        """Return whether this is the chosen operation, and count it."""
        name = name_of_operation(message)
        if name is None or (self.commands is not None and name not in self.commands):
            return False
        is_chosen = self.number in (None, self.count)
        self.count += 1
        if is_chosen:
            self.reached.set()
        return is_chosen


class Connection:
    """A connection of the server, with the connection to MongoDB that belongs to it."""

    def __init__(self, proxy, client, mongod):
        self.proxy, self.client, self.mongod = proxy, client, mongod
        self.is_reply_lost = False
        for function in (self.pass_on_messages, self.pass_on_replies):
            threading.Thread(target=self.run, args=(function,), daemon=True).start()

    def run(self, function):
        with contextlib.suppress(OSError):
            function()
        # So that the other thread ends as well.
        for connection in (self.client, self.mongod):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def pass_on_messages(self):
        with self.client.makefile("rb") as stream:
            while header := stream.read(HEADER.size):
                length, *_ = HEADER.unpack(header)
                self.proxy.pass_on(self, header + stream.read(length - HEADER.size))

    def pass_on_replies(self):
        while (data := self.mongod.recv(65536)) and not self.is_reply_lost:
            for old, new in self.proxy.replacements.items():
                data = data.replace(old, new)
            self.client.sendall(data)

    # What happens to a chosen operation.

    def hold(self, message, released):
        released.wait()
        self.mongod.sendall(message)

    def lose(self, _message, _released):
        raise ConnectionError

    def lose_reply(self, message, _released):
        self.is_reply_lost = True
        self.mongod.sendall(message)

    def answer(self, message, reply, _released):
        _, request_id, *_ = HEADER.unpack(message[: HEADER.size])
        # No flags, and one section with a document, which is kind 0.
        body = bytes(5) + bson.encode(reply)
        self.client.sendall(HEADER.pack(HEADER.size + len(body), 0, request_id, OP_MSG) + body)


def name_of_operation(message):
    """Return the name of an operation on the database of the tests. None: it is not one."""
    *_, kind = HEADER.unpack(message[: HEADER.size])
    if kind != OP_MSG:
        return None
    # Behind the header: four bytes of flags, a byte for the kind of section, and the command.
    command = next(bson.decode_iter(message[HEADER.size + 5 :]))
    return next(iter(command)) if command["$db"] == "test" else None
