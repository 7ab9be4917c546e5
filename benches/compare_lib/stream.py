"""One end of a connection that sends and receives at once and hashes both. A program of its own: it runs where the end is.

    stream.py listen|connect ADDRESS PORT BYTES SEED PATIENCE

Prints "ready" once it listens, and at its end one line of JSON.
"""

import hashlib
import json
import random
import socket
import sys
import threading
import time

# What is sent repeats after so many bytes. A prime: nothing that is lost or doubled in lots of a power of two, as
# buffers and sequence numbers are, can be made up for by what comes a period later.
PERIOD = 33_554_393
LOT = 256 * 1024


def data(seed, count):
    """Pieces of `count` bytes in all, the same for the same seed."""
    period = memoryview(random.Random(seed).randbytes(PERIOD))
    at = 0
    while count:
        piece = period[at : at + min(LOT, count)]
        at = (at + len(piece)) % PERIOD
        count -= len(piece)
        yield piece


class End:
    """Both ways of a connection; what goes wrong is said, with the byte at which it did."""

    def __init__(self, connection, seed, count):
        self.connection, self.seed, self.count = connection, seed, count
        self.result = {"sent": 0, "received": 0}

    def send(self):
        digest = hashlib.sha256()
        for piece in data(self.seed, self.count):
            self.connection.sendall(piece)
            digest.update(piece)
            self.result["sent"] += len(piece)
        self.connection.shutdown(socket.SHUT_WR)
        self.result["sent_sha256"] = digest.hexdigest()

    def receive(self):
        digest, buffer, begin = hashlib.sha256(), bytearray(LOT), time.monotonic()
        while n := self.connection.recv_into(buffer):
            digest.update(memoryview(buffer)[:n])
            self.result["received"] += n
        self.result["received_sha256"] = digest.hexdigest()
        self.result["seconds"] = time.monotonic() - begin

    def guarded(self, work):
        try:
            work()
        except OSError as error:
            self.result[f"{work.__name__}_failed"] = str(error)

    def run(self):
        threads = [threading.Thread(target=self.guarded, args=[work]) for work in (self.send, self.receive)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.result


def main(role, address, port, count, seed, patience):
    if role == "listen":
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, int(port)), family=family) as listener:
            print("ready", flush=True)
            listener.settimeout(float(patience))
            connection, _ = listener.accept()
    else:
        connection = socket.create_connection((address, int(port)), timeout=float(patience))
    # The longest that one call may wait: a stream that stands still for so long has stalled.
    connection.settimeout(float(patience))
    print(json.dumps(End(connection, int(seed), int(count)).run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
