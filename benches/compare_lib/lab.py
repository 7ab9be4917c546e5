"""The ground everything stands on: namespaces, cubic, compiled tools, the user the relays run as, and the way back."""

import os
import pathlib
import pwd
import re
import resource
import shutil
import subprocess
import tempfile

from . import procs

TOOLS = pathlib.Path(__file__).resolve().parent.parent / "tools"
ALLOWED = pathlib.Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
# 198.18.0.0/15 is set aside for benchmarks (RFC 2544, appendix C.2.2).
# The outside has two: pasta takes its gateway's address for the host itself.
HOST, GATEWAY, OUTSIDE = "198.18.0.1", "198.18.0.2", "198.18.0.3"
# What connection rates need is ports that do not run out; published ports lie below the range.
TCP_SYSCTLS = {
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.ipv4.ip_local_port_range": "10000 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    # All relays have the host's address: what the outside learnt of one's path would be applied to the next.
    "net.ipv4.tcp_no_metrics_save": "1",
}


# Every process of a run carries this in its environment, so that none is left when it ends.
MARK = "WEFT_BENCH_LAB"


class Failed(Exception):
    """A measure or a peer that could not do its work, with the reason that goes to the JSON."""


def call(argv, check=True, timeout=20):
    """Runs a short command to its end and returns what it printed."""
    try:
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{argv[0]}: {error}") from error
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def remove(name, spaces):
    """Ends every process that a run left and removes its namespaces."""
    procs.end([pid for pid in procs.marked(f"{MARK}={name}\0") if pid != os.getpid()])
    delete(spaces)


def delete(spaces):
    """Removes those of the namespaces that are there."""
    batch("".join(f"netns del {space}\n" for space in spaces), check=False)


def batch(commands, space=None, check=True):
    """Runs many commands of ip by one process, in a namespace if one is named: each would take longer to start than to do."""
    where, force = ["-n", space] if space else [], [] if check else ["-force"]
    done = subprocess.run(["ip", *where, *force, "-batch", "-"], input=commands, capture_output=True, text=True)
    if check and done.returncode:
        raise Failed(f"ip -batch: {done.stderr.strip()[-300:]}")


def sweep():
    """Removes what runs left that were killed before they could."""
    left = {}
    for space in pathlib.Path("/run/netns").glob("wb*"):
        if (match := re.fullmatch(r"(wb(\d+))[A-Z]\w*", space.name)) and not procs.command(int(match[2])):
            left.setdefault(match[1], []).append(space.name)
    for name, spaces in left.items():
        remove(name, spaces)
        for directory in pathlib.Path(tempfile.gettempdir()).glob(f"weft-compare-{name}-*"):
            shutil.rmtree(directory, ignore_errors=True)


class Lab:
    """A host and an outside joined by a veth, both in namespaces of their own, and a directory of compiled tools.

    Use it as a context: leaving it removes the namespaces and gives the machine its settings back.
    """

    def __init__(self, user):
        self.name = f"wb{os.getpid()}"
        self.host, self.outside = self.name + "H", self.name + "O"
        self.user = pwd.getpwnam(user)
        self.spaces = []
        self.allowed_before = None
        self.directory = None

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        remove(self.name, self.spaces)
        if self.allowed_before is not None:
            ALLOWED.write_text(self.allowed_before)
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _build(self):
        sweep()
        os.environ[MARK] = self.name
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.descriptors = hard
        allowed = ALLOWED.read_text()
        if "cubic" not in allowed.split():
            # Namespaces other than the first may only choose what is allowed to everyone.
            self.allowed_before = allowed
            ALLOWED.write_text(allowed.strip() + " cubic")
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"weft-compare-{self.name}-"))
        self.directory.chmod(0o755)
        # Where the relays' user may write its API sockets.
        self.run_directory = self.directory / "run"
        self.run_directory.mkdir()
        os.chown(self.run_directory, self.user.pw_uid, self.user.pw_gid)
        for source in sorted(TOOLS.glob("*.c")):
            call([os.environ.get("CC", "cc"), "-O2", "-pthread", "-o", self.directory / source.stem, source], timeout=120)
        for space in (self.host, self.outside):
            self.add_space(space)
        self.join(self.host, "out0", HOST, self.outside, "host0", OUTSIDE)
        self.address(self.outside, "host0", GATEWAY)
        call(["ip", "-n", self.host, "route", "add", "default", "via", GATEWAY])
        self.sysctl(space=self.host, settings={"net.ipv4.ping_group_range": "0 2147483647"})

    def add_space(self, space):
        """Makes a namespace with a loopback that is up and cubic."""
        call(["ip", "netns", "add", space])
        self.spaces.append(space)
        call(["ip", "-n", space, "link", "set", "lo", "up"])
        self.sysctl(space=space, settings=TCP_SYSCTLS)

    def add_bare_spaces(self, spaces):
        """Makes many namespaces as the kernel gives them."""
        self.spaces += spaces
        batch("".join(f"netns add {space}\n" for space in spaces))

    def drop_spaces(self, spaces):
        """Removes namespaces before the run ends."""
        delete(spaces)
        gone = set(spaces)
        self.spaces = [space for space in self.spaces if space not in gone]

    def join(self, a, a_link, a_address, b, b_link, b_address):
        """Joins two namespaces by a veth with an address at each end."""
        call(["ip", "link", "add", a_link, "netns", a, "type", "veth", "peer", "name", b_link, "netns", b])
        self.address(a, a_link, a_address)
        self.address(b, b_link, b_address)

    def address(self, space, link, address):
        call(["ip", "-n", space, "addr", "add", f"{address}/24", "dev", link])
        call(["ip", "-n", space, "link", "set", link, "up"])

    def sysctl(self, settings, space=None, pid=None):
        """Sets what can be set, in a named namespace or in that of a process."""
        where = self.inside(space) if space else ["nsenter", "-t", str(pid), "-n"]
        for name, value in settings.items():
            call(where + ["sysctl", "-q", "-w", f"{name}={value}"])

    @staticmethod
    def inside(space):
        """The prefix that runs a command in a named namespace."""
        return ["nsenter", f"--net=/run/netns/{space}"]

    def as_user(self):
        """The prefix that runs a command in the host's namespace as the unprivileged user."""
        ids = [f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}"]
        return ["ip", "netns", "exec", self.host, "setpriv", *ids, "--clear-groups", "--"]

    def tool(self, name):
        return str(self.directory / name)
