import socket

import pytest

from tests.network import LeftTheMachineError, is_on_this_machine

THIS_MACHINE = [None, "", "localhost", b"localhost", "127.0.0.1", "127.0.0.2", "::1", "0.0.0.0"]


@pytest.mark.parametrize("host", THIS_MACHINE)
def test_loopback_is_this_machine(host: object) -> None:
    assert is_on_this_machine(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "hub.invalid", b"hub.invalid"])
def test_everything_else_is_another_machine(host: object) -> None:
    assert not is_on_this_machine(host)


def test_a_connection_to_another_machine_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(LeftTheMachineError):
        sock.connect(("192.0.2.1", 9))  # TEST-NET-1: routed nowhere


def test_a_look_up_of_another_machine_is_refused() -> None:
    with pytest.raises(LeftTheMachineError):
        socket.getaddrinfo("hub.invalid", 443)


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()
