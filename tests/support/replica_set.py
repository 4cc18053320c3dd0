"""A replica set on this machine. Atlas runs one as well."""

import signal

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from support.processes import Mongod, wait_for


class ReplicaSet:
    """Three members with the same data, each a mongod.

    One of them is the primary, which executes the writes. The others, the secondaries, copy them.
    If the primary fails, the secondaries elect a new one.
    """

    def __init__(self, folder):
        # The oplog is the list of the latest writes, which the secondaries copy. By default it may
        # grow to 5 percent of the disk.
        options = ["--replSet", "set", "--oplogSize", "64"]
        self.members = [Mongod(folder / f"member{number}", options) for number in range(3)]
        hosts = [f"127.0.0.1:{member.port}" for member in self.members]
        self.uri = f"mongodb://{','.join(hosts)}/test?replicaSet=set"
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        # Each secondary copies from the primary, even if a test stops the other secondary.
        config = {"_id": "set", "members": members, "settings": {"chainingAllowed": False}}
        # It takes longer than `connect_to` allows.
        with MongoClient("127.0.0.1", self.members[0].port, directConnection=True) as client:
            client.admin.command("replSetInitiate", config)
        self.wait_until_complete()

    @staticmethod
    def connect_to(member):
        """Return a client of this one member, whatever its role is."""
        return MongoClient("127.0.0.1", member.port, directConnection=True, timeoutMS=1000)

    def role_of(self, member):
        """Return "primary" or "secondary", or None if the member is neither or unavailable."""
        with self.connect_to(member) as client:
            try:
                reply = client.admin.command("hello")
            except PyMongoError:
                return None
        if reply["isWritablePrimary"]:
            return "primary"
        return "secondary" if reply["secondary"] else None

    def wait_for_primary(self, members=None):
        """Wait until one of these members (by default, of all) is the primary, and return it."""
        members = members or self.members

        def primaries():
            return [member for member in members if self.role_of(member) == "primary"]

        return wait_for(primaries, seconds=60)[0]

    def wait_until_complete(self):
        """Wait until one member is the primary and the other two are secondaries."""

        def is_complete():
            roles = sorted(str(self.role_of(member)) for member in self.members)
            return roles == ["primary", "secondary", "secondary"]

        wait_for(is_complete, seconds=60)

    def repair(self):
        """Start and continue what a failed test has left killed or stopped."""
        for member in self.members:
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
            else:
                member.start()
        self.wait_until_complete()

    def kill(self):
        """Kill all members."""
        for member in self.members:
            member.kill()
