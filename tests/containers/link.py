"""A slow line for one container: a round trip of a given length and a rate, both real, on its own network interface.

The rate is `tc`'s token bucket on both ends of the container's cable: in its own network namespace for what it sends,
on the host's end for what it gets. The length is `tests.containers.forwarder`: the host's end is taken out of
podman's bridge, and a second cable goes into the bridge in its place, with the forwarder in between.

    container eth0 == veth (host)   forwarder   far == near (in the bridge)
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.containers.podman import CommandError, Container, run

PREFIX = "axl"
_SIOCETHTOOL = 0x8946
_SETTERS = {"transmit checksums": 0x17, "tcp segments": 0x1F, "large segments": 0x24}  # ETHTOOL_STXCSUM, STSO, SGSO


@contextmanager
def slow_line(container: Container, *, round_trip_s: float, rate: str) -> Iterator[None]:
    """Slow down everything that passes between a running container and its one network.

    Args:
        container: With exactly one network.
        round_trip_s: Added to every round trip, half of it each way.
        rate: In the words of `tc`, each way: ``1mbit``.
    """
    outer, bridge = _host_end(container.pid)
    near, far = f"{PREFIX}{os.getpid() % 100_000}n", f"{PREFIX}{os.getpid() % 100_000}f"
    inside = ["nsenter", f"--net=/proc/{container.pid}/ns/net"]
    bucket = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"]
    try:
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        for name in (outer, near, far):
            _quiet(name)
        # A frame of 64 KB that hardware would cut, or one whose checksum it would fill in, is no frame for a cable.
        run(*inside, sys.executable, "-m", "tests.containers.link", "eth0")
        run(sys.executable, "-m", "tests.containers.link", near)
        run(*inside, "tc", "qdisc", "add", "dev", "eth0", *bucket)
        run("tc", "qdisc", "add", "dev", outer, *bucket)
        run("ip", "link", "set", outer, "nomaster")
        run("ip", "link", "set", near, "master", bridge, "up")
        run("ip", "link", "set", far, "up")
        with _forwarder(outer, far, round_trip_s / 2):
            yield
    finally:
        with suppress(CommandError):
            run("ip", "link", "delete", near)
        with suppress(CommandError):
            run("ip", "link", "set", outer, "master", bridge)
            run("tc", "qdisc", "delete", "dev", outer, "root")
            run(*inside, "tc", "qdisc", "delete", "dev", "eth0", "root")


@contextmanager
def _forwarder(outer: str, inner: str, delay_s: float) -> Iterator[None]:
    words = [sys.executable, "-m", "tests.containers.forwarder", outer, inner, str(delay_s)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None, "the forwarder ended too early"
        finally:
            process.kill()


def _host_end(pid: int) -> tuple[str, str]:
    """Return the host's end of a container's cable, and the bridge that it is in."""
    own = json.loads(run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "link", "show", "eth0"))
    [found] = [link for link in json.loads(run("ip", "-json", "link")) if link["ifindex"] == own[0]["link_index"]]
    return str(found["ifname"]), str(found["master"])


def _quiet(interface: str) -> None:
    """Keep the host itself from answering on a cable that it only carries."""
    for setting in (f"ipv4/conf/{interface}/arp_ignore=8", f"ipv6/conf/{interface}/disable_ipv6=1"):
        name, _, value = setting.partition("=")
        with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write(value)


def send_whole_frames(interface: str) -> None:
    """Switch off what leaves cutting and checksums to the next device (``ethtool -K tx off tso off gso off``)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _SETTERS.values():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


if __name__ == "__main__":
    send_whole_frames(sys.argv[1])
