"""One rig for each switch: sandboxes of one host, each a namespace with one interface, and what joins them.

Every rig has the same network and MTU, and namespaces of its own. Switches run as root, in the host's namespace.
"""

import contextlib
import http.client
import ipaddress
import json
import shutil
import socket
import subprocess
import time

from . import procs
from .lab import Failed, batch, call
from .rigs import Rig

NETWORK = ipaddress.ip_network("198.18.32.0/20")
# The first addresses are the switch's own, where it has any.
FIRST_ADDRESS = 10
PAIR = 2
# So many sandboxes have a loopback and cubic, for they are where traffic comes from and goes to; more are bare.
FULL = 8
# A switch with a thousand endpoints may take some time to let them go.
LEAVING = 60


class Switch(Rig):
    """What all switches share. The sandboxes are numbered from 0; `begin` starts what joins them, `connect` adds some."""

    # Whether it is worth its while to put a crowd on it.
    crowds = False

    def __init__(self, lab, name, mtu):
        super().__init__(lab, name, mtu)
        self.home = lab.host
        self.spaces = []
        self.joined = 0
        self.processes = []

    def _start(self):
        self.guarded(self.begin)
        self.guarded(self.grow, PAIR)

    def guarded(self, work, *arguments):
        """A switch that is not what it should be is none: the next measure starts it anew."""
        try:
            work(*arguments)
        except BaseException:
            self.stop()
            raise

    def begin(self):
        """Starts the switch, with nothing on it."""

    def sized(self, count):
        """Has so many sandboxes on the switch, which is started anew if there are more."""
        if self.joined > count or not self.alive():
            self.stop()
            self.start()
        if self.joined < count:
            self.guarded(self.grow, count)

    def grow(self, count):
        self.make(count)
        numbers = range(self.joined, count)
        self.joined = count
        self.connect(numbers)

    def make(self, count):
        """Makes the namespaces of so many sandboxes, which are on no switch yet."""
        begin = len(self.spaces)
        fresh = [f"{self.lab.name}S{self.port}x{number}" for number in range(begin, count)]
        self.spaces += fresh
        full = max(FULL - begin, 0)
        for space in fresh[:full]:
            self.lab.add_space(space)
        self.lab.add_bare_spaces(fresh[full:])

    def stop(self):
        if self.process:
            self.leave()
            procs.end(procs.family(self.process.pid, self.marker))
        for process in self.processes:
            process.wait(5)
        self.process, self.processes = None, []
        self.lab.drop_spaces(self.spaces)
        self.spaces, self.joined = [], 0

    def leave(self):
        """Ends the switch in order, where that takes more than a signal."""

    def spawn(self, argv, **more):
        process = super().spawn(argv, **more)
        self.processes.append(process)
        # The first is the one whose end is told.
        self.process = self.process or process
        return process

    def alive(self):
        return self.joined > 0 and all(process.poll() is None for process in self.processes)

    def relays(self):
        return procs.family(self.process.pid, self.marker) if self.process else []

    def inside(self, number=0):
        return self.lab.inside(self.spaces[number])

    @contextlib.contextmanager
    def apart(self, number):
        """A place that is on no switch, with a sandbox's address: what is sent there is dropped at once."""
        space, link = f"{self.lab.name}S{self.port}apart", "eth0"
        self.lab.add_space(space)
        try:
            call(["ip", "-n", space, "link", "add", link, "type", "veth", "peer", "name", "drop0"])
            call(["ip", "-n", space, "link", "set", "drop0", "up"])
            batch(self.addressed(number, link), space)
            # Nobody has this MAC.
            for other in range(FULL):
                call(["ip", "-n", space, "neigh", "add", self.address(other), "lladdr", "02:00:00:00:00:99", "dev", link])
            yield self.lab.inside(space)
        finally:
            self.lab.drop_spaces([space])

    @staticmethod
    def address(number):
        return str(NETWORK[FIRST_ADDRESS + number])

    def configure(self, number, link):
        """Gives a sandbox's interface its address."""
        batch(self.addressed(number, link), self.spaces[number])

    def addressed(self, number, link):
        address = f"{self.address(number)}/{NETWORK.prefixlen} broadcast {NETWORK.broadcast_address}"
        return f"addr add {address} dev {link}\nlink set {link} mtu {self.mtu} up\n"

    def take(self, number, link):
        """Moves an interface that the switch made beside itself into a sandbox."""
        self.wait_for(link, lambda: link in call(["ip", "-n", self.home, "link"]))
        call(["ip", "-n", self.home, "link", "set", link, "netns", self.spaces[number]])
        self.configure(number, link)


class Bridge(Switch):
    """The kernel's bridge, and a veth pair for each sandbox."""

    LINK = "bridge0"
    crowds = True

    def begin(self):
        call(["ip", "-n", self.lab.host, "link", "add", self.LINK, "type", "bridge"])
        call(["ip", "-n", self.lab.host, "link", "set", self.LINK, "up"])

    def connect(self, numbers):
        lines = []
        for number in numbers:
            port = f"port{number}"
            lines.append(f"link add {port} type veth peer name eth0 netns {self.spaces[number]}\n")
            lines.append(f"link set {port} mtu {self.mtu} master {self.LINK} up\n")
        batch("".join(lines), self.lab.host)
        for number in numbers:
            self.configure(number, "eth0")

    def stop(self):
        super().stop()
        # The ports go with the sandboxes.
        call(["ip", "-n", self.lab.host, "link", "del", self.LINK], check=False)


class TapLoop(Switch):
    """The bare loop, which joins two TAPs and knows of no third."""

    def connect(self, numbers):
        if numbers.stop > PAIR:
            raise Failed("it joins two")
        ends = [word for space in self.spaces for word in (f"/run/netns/{space}", "eth0")]
        self.spawn([self.lab.tool("taploop"), *ends])
        for number in numbers:
            space = self.spaces[number]
            self.wait_for("taploop", lambda: "eth0" in call(["ip", "-n", space, "link"]))
            self.configure(number, "eth0")

    def sized(self, count):
        if count > PAIR:
            raise Failed("it joins two")
        super().sized(count)


class OpenVSwitch(Switch):
    """Open vSwitch's own data path in user space, with segmentation offload; a port's interface moves into its sandbox."""

    program = "ovs-vswitchd"

    def __init__(self, lab, name, mtu):
        super().__init__(lab, name, mtu)
        # Two of them cannot live in one namespace: the data path's own interface has but one name.
        self.home = f"{lab.name}O{self.port}"

    def begin(self):
        self.lab.add_space(self.home)
        directory = self.lab.directory / f"ovs{self.port}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        database, self.api = directory / "conf.db", f"unix:{directory}/db.sock"
        call(["ovsdb-tool", "create", database, schema])
        quiet = ["--no-chdir", "-vconsole:warn", "-vsyslog:off"]
        inside = self.lab.inside(self.home)
        self.spawn(["ovsdb-server", *quiet, f"--remote=p{self.api}", f"--unixctl={directory}/server.ctl", database])
        self.wait_for("ovsdb-server", (directory / "db.sock").exists)
        self.set("--no-wait", "init", "--", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
        self.spawn([*inside, self.path, *quiet, f"--unixctl={directory}/switch.ctl", self.api])
        self.set("add-br", "bridge1", "--", "set", "bridge", "bridge1", "datapath_type=netdev")

    def stop(self):
        super().stop()
        self.lab.drop_spaces([self.home])

    def set(self, *words):
        call(["ovs-vsctl", f"--db={self.api}", "--timeout=15", *words])

    def connect(self, numbers):
        for number in numbers:
            link = f"sand{number}"
            self.set("add-port", "bridge1", link, "--", "set", "interface", link, "type=internal")
            self.take(number, link)


class OpenVSwitchVeth(OpenVSwitch):
    """The same with a veth pair for each sandbox, as ovs-docker makes them: packet sockets where the other has TAPs."""

    def connect(self, numbers):
        for number in numbers:
            port = f"port{number}"
            call(["ip", "-n", self.home, "link", "add", port, "mtu", str(self.mtu), "type", "veth", "peer", "name", "eth0",
                  "netns", self.spaces[number]])
            call(["ip", "-n", self.home, "link", "set", port, "up"])
            self.set("add-port", "bridge1", port)
            self.configure(number, "eth0")


class Vde(Switch):
    """vde_switch with a TAP for each sandbox, which moves into it: fewer copies than a plug and a socket each would make."""

    program = "vde_switch"

    def connect(self, numbers):
        links = [f"sand{number}" for number in numbers]
        if numbers.start:
            raise Failed("it takes its TAPs at its start")
        control = self.lab.directory / f"vde{self.port}"
        shutil.rmtree(control, ignore_errors=True)
        taps = [word for link in links for word in ("--tap", link)]
        # It ends with its standard input.
        self.spawn([*self.lab.inside(self.lab.host), self.path, "--sock", control, *taps], stdin=subprocess.PIPE)
        for number, link in zip(numbers, links):
            self.take(number, link)


class Api(http.client.HTTPConnection):
    """HTTP over the Unix socket of weft's API."""

    def __init__(self, path):
        super().__init__("localhost", timeout=LEAVING)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))

    def answers(self):
        """Whether anyone listens there."""
        try:
            self.connect()
        except OSError:
            self.close()
            return False
        return True

    def post(self, path, content=None):
        self.request("POST", path, json.dumps(content or {}), {"Content-Type": "application/json"})
        answer = self.getresponse()
        said = answer.read().decode(errors="replace")
        if answer.status >= 300:
            raise Failed(f"{path}: {answer.status} {said.strip()[-300:]}")
        return json.loads(said) if said.strip() else None


class WeftUp(Switch):
    """weft's daemon with a TAP for each sandbox and the policies that a network has by default."""

    program = "weft"
    crowds = True
    workers = 1
    kind = "tap"

    def begin(self):
        directory = self.lab.directory / f"weft{self.port}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        where = directory / "api.sock"
        options = ["--workers", str(self.workers), "--socket", where, "--store", directory / "store"]
        self.spawn([*self.lab.inside(self.lab.host), self.path, "up", *options])
        self.api = Api(where)
        self.wait_for("weft up", self.api.answers)
        self.api.post("/v1/networks", {"name": "bench", "subnet": str(NETWORK), "mtu": self.mtu})

    def connect(self, numbers):
        """Joins one after the other; `took` has the seconds that each answer took, by the sandbox's number."""
        self.took = self.took[: numbers.start] if numbers.start else []
        # The server lets go of a connection that was idle for some seconds.
        self.api.close()
        for number in numbers:
            wish = {"network": "bench", "sandbox": f"/run/netns/{self.spaces[number]}", "ip": self.address(number), "kind": self.kind}
            begin = time.monotonic()
            self.api.post("/v1/endpoints", wish)
            self.took.append(time.monotonic() - begin)

    def leave(self):
        """So that no TAP is left in the sandboxes."""
        try:
            self.api.close()
            self.api.post("/v1/down")
            self.process.wait(LEAVING)
        except (Failed, OSError, http.client.HTTPException, subprocess.TimeoutExpired):
            # It is ended by signals then.
            return


class WeftUpTwo(WeftUp):
    """The same with two threads that carry packets."""

    workers = 2


class WeftUpPacket(WeftUp):
    """The same without a TAP: by packet sockets, each on the end of a veth pair."""

    kind = "packet"


# Every rig by the name it has in the table: class and MTU.
ALL = {
    "bridge": (Bridge, 1500),
    "taploop": (TapLoop, 1500),
    "ovs": (OpenVSwitch, 1500),
    "ovs-veth": (OpenVSwitchVeth, 1500),
    "vde": (Vde, 1500),
    "weft": (WeftUp, 1500),
    "weft-w2": (WeftUpTwo, 1500),
    "weft-packet": (WeftUpPacket, 1500),
}
