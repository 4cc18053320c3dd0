"""Faults of MongoDB at a chosen operation. MongoDB has fail points for its own tests."""

# The commands that read and that write, as MongoDB names them.
READS = ["find"]
WRITES = ["insert", "update", "delete", "findAndModify", "bulkWrite"]

# The options of a mongod that has fail points.
WITH_FAIL_POINTS = ["--setParameter", "enableTestCommands=1"]


class FailPoint:
    """The fail point `failCommand` of a mongod that runs with WITH_FAIL_POINTS."""

    def __init__(self, client):
        self.admin = client.admin

    def set(self, failCommands, skip=0, **how):
        """Let these commands fail, except for the first `skip` ones. `how` says in which way."""
        data = {"failCommands": failCommands, **how}
        self.before = self.configure(mode={"skip": skip}, data=data)["count"]

    def count(self):
        """Return how many commands have failed since `set`."""
        name = "failpoint.failCommand"
        parameter = self.admin.command("getParameter", 1, **{name: 1})[name]
        return parameter["timesEntered"] - self.before

    def clear(self):
        """Let all commands succeed again."""
        self.configure(mode="off")

    def configure(self, **options):
        return self.admin.command("configureFailPoint", "failCommand", **options)
