"""One rig for each thing that is measured: a sandbox, the way from it to the outside, and the processes between."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import time

from . import procs
from .lab import OUTSIDE, HOST, TCP_SYSCTLS, Failed, call

PATIENCE = 8
FIRST_PORT = 7000
# A sleep of this many seconds is told apart from every other by its fraction.
HOLD = "1000000"


class Rig:
    """What all rigs share. `target` is the outside as the sandbox sees it; `published` is where the outside finds the
    sandbox's `port`; `loopback` is where the host finds it on its own loopback, None where there is no such thing."""

    numbers = itertools.count()
    target, published, loopback = OUTSIDE, HOST, "127.0.0.1"
    program = None
    # What an idle flow may take of the relay's memory, so that a run does not exhaust the machine: the most that was
    # seen of any peer is 10,000, doubled.
    flow_bytes = 20_000

    def __init__(self, lab, name, mtu):
        self.lab, self.name, self.mtu = lab, name, mtu
        number = next(Rig.numbers)
        self.port = FIRST_PORT + number
        self.marker = f"{lab.name}-{number}-"
        self.hold = f"{HOLD}.{os.getpid()}{number:02}"
        self.process = self.holder = None
        self.log = None

    def start(self):
        """Starts the sandbox and waits until its network is up."""
        self.log = open(self.lab.directory / f"log{self.port}", "w+b")
        self._start()

    def stop(self):
        if self.process:
            procs.end(procs.family(self.process.pid, self.marker))
            self.process.wait(5)
        self.process = self.holder = None

    def alive(self):
        return self.holder is not None and self.process.poll() is None and procs.command(self.holder) != []

    def spawn(self, argv, **more):
        env = {**os.environ, "WEFT_BENCH_RIG": self.marker}
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(argv, env=env, stdout=self.log, stderr=self.log, cwd="/", **more)

    def wait_for(self, what, condition):
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                said = self.log.read().decode(errors="replace").strip().splitlines()
                raise Failed(f"{what}: " + (" | ".join(said[-3:]) or "nothing was said")[-300:])
            time.sleep(0.02)
        return value

    def find_holder(self):
        """The sandbox's own command, once it sleeps."""
        for pid in procs.family(self.process.pid, self.marker):
            if procs.command(pid) == ["sleep", self.hold]:
                return pid
        return None

    def routed(self):
        return "default" in call(["nsenter", "-t", str(self.holder), "-n", "ip", "route"], check=False)

    def relays(self):
        """The processes between the sandbox and the outside."""
        return [p for p in procs.family(self.process.pid, self.marker) if p != self.holder]

    def inside(self):
        """The prefix that runs a command in the sandbox's network."""
        return ["nsenter", "-t", str(self.holder), "-n"]

    def sandbox_command(self):
        return ["sh", "-c", f"sysctl -q -w net.ipv4.tcp_congestion_control=cubic; exec sleep {self.hold}"]

    def run_true(self):
        """Seconds that a sandbox takes whose command does nothing."""
        begin = time.monotonic()
        call(self.lab.as_user() + self.true_command())
        return time.monotonic() - begin

    def true_command(self):
        raise Failed("it has no sandbox of its own")


class Direct(Rig):
    """A veth from the sandbox's namespace to the outside, and nothing between."""

    target, published = "198.18.1.2", "198.18.1.1"

    def _start(self):
        self.space = self.lab.name + "N"
        self.lab.add_space(self.space)
        self.lab.join(self.space, "eth0", self.published, self.lab.outside, "direct0", self.target)

    def stop(self):
        pass

    def alive(self):
        return True

    def relays(self):
        return []

    def inside(self):
        return self.lab.inside(self.space)

    def true_command(self):
        return ["true"]


class TapLoop(Direct):
    """Two TAPs and the bare loop between them."""

    target, published, loopback = "198.18.2.2", "198.18.2.1", None

    def _start(self):
        self.space = self.lab.name + "T"
        self.lab.add_space(self.space)
        netns = "/run/netns/"
        argv = [self.lab.tool("taploop"), netns + self.space, "eth0", netns + self.lab.outside, "loop0"]
        self.process = self.spawn(argv)
        self.wait_for("taploop", lambda: "loop0" in call(["ip", "-n", self.lab.outside, "link"]))
        for space, link, address in ((self.space, "eth0", self.published), (self.lab.outside, "loop0", self.target)):
            call(["ip", "-n", space, "link", "set", link, "mtu", self.mtu])
            self.lab.address(space, link, address)

    stop = Rig.stop
    relays = Rig.relays

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def true_command(self):
        return Rig.true_command(self)


class Wrapper(Rig):
    """A relay that starts the sandbox's command itself."""

    def _start(self):
        self.process = self.spawn(self.lab.as_user() + self.command(self.publish(), self.sandbox_command()))
        self.holder = self.wait_for(self.program, self.find_holder)
        self.wait_for("a default route", self.routed)
        self.lab.sysctl(TCP_SYSCTLS, pid=self.holder)

    def true_command(self):
        return self.command([], ["true"])


class Pasta(Wrapper):
    program = "pasta"

    def publish(self):
        return ["-t", str(self.port), "-u", str(self.port)]

    def command(self, publish, argv):
        # Its defaults would forward every port that is open anywhere.
        ports = [*(publish or ["-t", "none", "-u", "none"]), "-T", "none", "-U", "none"]
        return [self.path, "--config-net", "-q", "-f", "-m", str(self.mtu), *ports, "--", *argv]


class Weft(Wrapper):
    program = "weft"

    def publish(self):
        return ["-p", f"{self.port}/tcp", "-p", f"{self.port}/udp"]

    def command(self, publish, argv):
        return [self.path, "run", "--mtu", str(self.mtu), *publish, "--", *argv]


class Slirp(Rig):
    """slirp4netns joins a namespace that something else made."""

    program = "slirp4netns"

    def _start(self):
        api = self.lab.run_directory / f"{self.port}.sock"
        self.process, self.holder, self.relay = self.pair(self.hold, api)
        self.lab.sysctl(TCP_SYSCTLS, pid=self.holder)
        for proto in ("tcp", "udp"):
            self.ask(api, "add_hostfwd", proto=proto, host_addr="0.0.0.0", host_port=self.port, guest_addr="10.0.2.100",
                     guest_port=self.port)

    def pair(self, hold, api=None):
        """A namespace with a sleeper in it, and slirp4netns at its side."""
        space = self.spawn(self.lab.as_user() + ["unshare", "-Urnm", "sleep", hold])
        begin = time.monotonic()
        while procs.command(space.pid) != ["sleep", hold]:
            if space.poll() is not None or time.monotonic() - begin > PATIENCE:
                raise Failed("unshare -Urnm failed")
            time.sleep(0.002)
        ready, tell = os.pipe()
        argv = [self.path, "-c", f"--mtu={self.mtu}", f"--ready-fd={tell}", *([f"--api-socket={api}"] if api else [])]
        relay = self.spawn(self.lab.as_user() + [*argv, str(space.pid), "tap0"], pass_fds=[tell])
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):
                procs.end([space.pid, relay.pid])
                self.log.seek(0)
                raise Failed("slirp4netns: " + self.log.read().decode(errors="replace").strip()[-300:])
        return space, space.pid, relay

    @staticmethod
    def ask(api, what, **arguments):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(api))
            control.sendall(json.dumps({"execute": what, "arguments": arguments}).encode())
            control.shutdown(socket.SHUT_WR)
            answer = control.makefile().read()
        if "error" in answer:
            raise Failed(f"slirp4netns {what}: {answer.strip()}")

    def alive(self):
        return Rig.alive(self) and self.relay.poll() is None

    def stop(self):
        super().stop()
        if getattr(self, "relay", None):
            self.relay.wait(5)

    def run_true(self):
        begin = time.monotonic()
        space, pid, relay = self.pair(self.hold + "9")
        call(["nsenter", "-t", str(pid), "-n", "true"])
        procs.end([relay.pid, space.pid])
        took = time.monotonic() - begin
        relay.wait(5)
        space.wait(5)
        return took


def version(path):
    """What a program says its version is, in one line."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (said.splitlines() or [""])[0].strip()


def find(program, weft):
    """Where a peer's program lies, from the option, PATH or WEFT_BENCH_PEERS."""
    if program == "weft":
        return weft if os.access(weft, os.X_OK) else None
    return shutil.which(program, path=os.pathsep.join(filter(None, (os.environ.get("WEFT_BENCH_PEERS"), os.environ["PATH"]))))


# Every rig by the name it has in the table: class and MTU.
ALL = {
    "none": (Direct, 1500),
    "taploop": (TapLoop, 1500),
    "pasta-1500": (Pasta, 1500),
    "slirp-1500": (Slirp, 1500),
    "weft-1500": (Weft, 1500),
    "pasta-65520": (Pasta, 65520),
    "slirp-65520": (Slirp, 65520),
    "weft-65520": (Weft, 65520),
}
