"""A site's connection to the hub: Flower's node loop with the gate inside it.

Run as `python -m client.agent --home DIR`; `client.site_process` keeps it up.

Everything a site says to the hub passes through this process, and it builds every
outgoing message itself: from the bytes that the gate returned, or from a fixed
number where something failed. Of what the runner produced nothing else exists
here, so no further array, metric, metadata or exception text can leave.

Flower's loop (`start_client_internal`) keeps its connection, heartbeat and
signals; its two steps "pull and store a message" and "push messages" are replaced.
The bundle that the hub submitted is not even downloaded, and the run's
configuration is not read: a request is the bytes of its one record.

The process does not start when the Flower functions it replaces or relies on are
not those that were read (`AUDITED`).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Error, Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeStateFactory

from client.guard_protocol import Answer, Guard, Run
from client.heads import keep_countersigned
from client.hub_check import REASONS, check_hub, clock_offset_s, clock_sentence, forget_trouble, note_trouble
from client.link import AgentEnd, LateError, lock_instance
from client.model_fetch import keep_in_touch
from client.run_notes import note_heard, prepare_notes
from client.settings import SiteSettings, load_settings
from schemas import audited
from schemas.errors import ArchipelError
from schemas.headers import INSTANCE_HEADER, REASON_HEADER, TIME_HEADER
from schemas.logs import configure_logging
from schemas.processes import die_with_parent, run_and_end
from schemas.wire import (
    POLL_S,
    FlowerDiffersError,
    SiteFault,
    WireError,
    cap_sleeps,
    from_record,
    shorten_backoff,
    to_record,
    verify_flower,
)

__all__ = ["Agent", "main"]

log = logging.getLogger("archipel.site")

_OBJECTS_OF_A_MESSAGE = 3  # the message, its record dictionary, its one record
_RECONNECT_S = 2
_NOTE_HEARD_S = 5.0


@dataclass(frozen=True)
class _Taken:
    """A message that waits for its answer.

    Attributes:
        message: As the hub announced it; the answer's address comes from here.
        request: Its body; None where it is not exactly one body.
        confirm: Tells the hub that the message was dealt with.
        is_wanted: Asks the hub whether the run still goes on.
    """

    message: Message
    request: bytes | None
    confirm: Callable[[], None]
    is_wanted: Callable[[], bool]


class Agent:
    """Takes one message at a time from the hub, and answers it."""

    def __init__(self, guard: Guard, ask_runner: Callable[[bytes, float, Callable[[], bool]], bytes | None]) -> None:
        """Keeps the gate and the runner.

        Args:
            guard: Decides about every request and every draft.
            ask_runner: Turns a request into a draft within so many seconds, as long as it
                is still wanted; None where it failed.
        """
        self._guard = guard
        self._ask_runner = ask_runner
        self._taken: _Taken | None = None

    def pull(
        self,
        *,
        receive: Callable[[], tuple[Message, ObjectTree] | None],
        get_run: Callable[[int], object],
        pull_object: Callable[[int, str], bytes],
        confirm_message_received: Callable[[int, str], None],
        **_unused: Any,
    ) -> int | None:
        """Takes the next message; stands in for Flower's `_pull_and_store_message`.

        Nothing is stored in Flower's state, and the run's bundle is not asked for.

        Returns:
            The Flower run of the message, or None where there was none.
        """
        try:
            received = receive()
            if received is None:
                return None
            message, tree = received
            run_id = message.metadata.run_id
            request = _fetch(message, tree, lambda object_id: pull_object(run_id, object_id))
        except RunNotRunningException:
            return None
        self._taken = _Taken(
            message,
            request,
            lambda: confirm_message_received(run_id, message.metadata.message_id),
            lambda: _is_running(get_run, run_id),
        )
        return run_id

    def push(
        self,
        *,
        send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
        push_object: Callable[[int, str, str, bytes], None],
        **_unused: Any,
    ) -> None:
        """Answers the message that was taken; stands in for Flower's `_push_messages`."""
        if self._taken is None:
            return
        taken, self._taken = self._taken, None
        try:
            reply = self._reply(taken)
            if reply is not None:
                _send(reply, send, push_object)
            # Only now: until it is confirmed, the hub keeps the request for an agent that died on the way.
            taken.confirm()
        except RunNotRunningException:
            log.info("the hub has ended this run; its request is dropped")

    def _reply(self, taken: _Taken) -> Message | None:
        message = taken.message
        if taken.request is None:
            log.warning("a request that is not one body of bytes was refused")
            return _error(SiteFault.MALFORMED_REQUEST, message)
        try:
            body = self._decide(taken.request, message.metadata.ttl, taken.is_wanted)
        except LateError:
            log.warning("the hub no longer waits for this answer; the work on it was ended and nothing leaves")
            return None
        except Exception as error:
            # Fails closed, whatever it was. The text may hold a patient's value, so not even the log gets it.
            log.error("the gate failed (%s); a fixed code is answered", type(error).__name__)
            return _error(SiteFault.GATE_FAILED, message)
        return Message(to_record(body), reply_to=message)

    def _decide(self, request: bytes, time_s: float, is_wanted: Callable[[], bool]) -> bytes:
        verdict = self._guard.admit(request)
        if type(verdict) is Answer:
            body = verdict.body
        elif type(verdict) is Run:
            body = self._guard.release(request, self._ask_runner(request, time_s, is_wanted))
        else:
            raise TypeError("a gate says Run or Answer")
        if type(body) is not bytes:
            raise TypeError("a gate releases bytes")
        return body


def _fetch(message: Message, tree: ObjectTree, pull_object: Callable[[str], bytes]) -> bytes | None:
    """Returns the body of an incoming message, or None where it is anything but one body."""
    object_ids = [node.object_id for node in iterate_object_tree(tree)]
    if len(object_ids) != _OBJECTS_OF_A_MESSAGE or object_ids[-1] != message.metadata.message_id:
        return None
    contents = pull_objects(object_ids, pull_object_fn=pull_object)
    if any(get_object_id(content) != object_id for object_id, content in contents.items()):
        return None
    try:
        inflated = inflate_object_from_contents(object_ids[-1], contents)
        if not isinstance(inflated, Message) or not inflated.has_content():
            return None
        return from_record(inflated.content)
    except (WireError, ValueError, KeyError, TypeError):
        return None


def _is_running(get_run: Callable[[int], object], run_id: int) -> bool:
    try:
        get_run(run_id)
    except RunNotRunningException:
        return False
    return True


def _error(fault: SiteFault, message: Message) -> Message:
    return Message(Error(int(fault), fault.name), reply_to=message)


def _send(
    reply: Message,
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
    push_object: Callable[[int, str, str, bytes], None],
) -> None:
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        # The time the site took is not the hub's business: 0.
        wanted, session = send(reply, get_object_tree(reply), 0.0)
        for object_id in objects:
            if object_id in wanted:
                push_object(reply.metadata.run_id, session, object_id, objects[object_id].deflate())


# ---------------------------------------------------------------- connecting
class _ExplainingAuth(NodeAuthHttpInterceptor):
    """Flower's signature on each call, and a sentence in the log when the hub refuses one."""

    instance = ""
    home = Path()
    _said = ""
    _may_be_noted = True  # by the agent before this one, which the hub's refusal ended
    _heard = 0.0

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[INSTANCE_HEADER] = self.instance
        response = super().intercept(context, call_next)
        reason = response.headers.get(REASON_HEADER, "")
        if response.is_error and reason != self._said:
            self._said = reason
            sentence = REASONS.get(reason)
            if reason == "clock":
                sentence = clock_sentence(clock_offset_s(response.headers.get(TIME_HEADER)))
            if sentence:
                log.error(sentence)
                note_trouble(self.home, sentence)
                self._may_be_noted = True
        elif not response.is_error and self._may_be_noted:
            forget_trouble(self.home)
            self._may_be_noted = False
        if not response.is_error and time.monotonic() - self._heard >= _NOTE_HEARD_S:
            note_heard(self.home)
            self._heard = time.monotonic()
        return response


def _await_hub(settings: SiteSettings, authority: Path) -> None:
    """Returns when the hub answers over verified TLS; says once what is in the way."""
    said = ""
    while True:
        state = check_hub(settings.hub_address, authority)
        if state.sentence != said:
            said = state.sentence
            log.log(logging.WARNING if state.reachable else logging.ERROR, said or "the hub answers")
        if state.reachable:
            return
        time.sleep(10.0 if state.lasting else _RECONNECT_S)


def _install(agent: Agent) -> None:
    """Puts the agent's two steps and the shorter waits into Flower's node loop."""
    start_client_internal.__dict__["_pull_and_store_message"] = agent.pull
    start_client_internal.__dict__["_push_messages"] = agent.push
    fleet_http_connection.__dict__["NodeAuthHttpInterceptor"] = _ExplainingAuth
    http_retry.__dict__["MAX_RETRY_DELAY"] = _RECONNECT_S
    cap_sleeps(start_client_internal, POLL_S)
    shorten_backoff()


def connect(home: Path, agent: Agent, settings: SiteSettings) -> None:
    """Serves the hub until a signal, or until the hub refuses this node."""
    authority = home / "keys" / "hub-ca.crt"
    _await_hub(settings, authority)
    key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ArchipelError("keys/node.key is no elliptic curve key; make a new one with `archipel site init`")
    _install(agent)
    start_client_internal.start_client_internal(
        state_factory=NodeStateFactory(ObjectStoreFactory()),
        server_address=settings.hub_address,
        node_config={},
        root_certificates=authority.read_bytes(),
        insecure=False,
        authentication_keys=(key, key.public_key()),
        isolation="process",
    )


def main(arguments: Sequence[str] | None = None, *, open_guard: Callable[[Path], Guard] | None = None) -> int:
    """Serves the hub; returns 1 on wrong settings or another Flower."""
    parser = argparse.ArgumentParser(prog="client.agent", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args(arguments).home.resolve()
    configure_logging({"flwr": logging.CRITICAL, "httpx": logging.WARNING})
    try:
        die_with_parent()
        verify_flower(audited.AGENT)
        settings = load_settings(home)
        _ExplainingAuth.instance = lock_instance(home)
        _ExplainingAuth.home = home
        prepare_notes(home)
        guard = (open_guard or _open_guard)(home)
        link = AgentEnd(home)
        keep_in_touch(home)
        keep_countersigned(home)
        connect(home, Agent(guard, link.ask), settings)
    except (FlowerDiffersError, ArchipelError) as error:
        log.error("%s", error)
        return 1
    except FileNotFoundError as error:
        log.error("%s is missing; `archipel site check` says what belongs there", error.filename)
        return 1
    return 0


def _open_guard(home: Path) -> Guard:
    from client.guard import open_guard

    return open_guard(home)


if __name__ == "__main__":
    run_and_end(main)
