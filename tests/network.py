"""A watch over sockets: a test that leaves the machine fails at the line that tried to."""

import ipaddress
import socket

_NAMES_OF_THIS_MACHINE = {"", "localhost", "ip6-localhost", "0.0.0.0", "::"}


class LeftTheMachineError(OSError):
    """A test tried to reach something other than this machine."""


def is_on_this_machine(host: object) -> bool:
    """True for loopback and for "any address"; False for every other name or address."""
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in _NAMES_OF_THIS_MACHINE:
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


def refuse_other_machines(event: str, args: tuple[object, ...]) -> None:
    """An audit hook; sees every connection that Python itself makes (not those of gRPC's C core)."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect":
        sock, address = args
        if getattr(sock, "family", None) not in {socket.AF_INET, socket.AF_INET6}:
            return
        host = address[0] if isinstance(address, tuple) else address
    else:
        return
    if not is_on_this_machine(host):
        raise LeftTheMachineError("The tests use loopback only, and something asked for another machine.")
