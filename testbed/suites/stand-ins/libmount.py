"""Reads /proc/self/mountinfo, as far as crun's tests of mounts need it.

Debian has no Python binding of libmount; without one the tests leave themselves out. This stands in its place.
"""


class Mount:
    """One line of mountinfo: options of the mount point, and of the file system."""

    def __init__(self, line):
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        self.target = fields[4]
        self.vfs_options = fields[5]
        self.fs_options = rest[2] if len(rest) > 2 else ""


class Table:
    """The mounts in a file, in its order."""

    def __init__(self, path):
        with open(path) as mounts:
            self.mounts = [Mount(line) for line in mounts if " - " in line]

    def find_target(self, path):
        """The last mount at a path: the one that is seen."""
        return next((mount for mount in reversed(self.mounts) if mount.target == path), None)
