"""The hub's Flower process: a SuperLink of which the world sees only what sites need.

Run as `python -m server.superlink --home DIR`; `server.hub_process` keeps it up.

Stock Flower serves submitting code, taking server tasks and the sites' API on one
port, and whoever reaches it may use all of it. Here there are two listeners over
one in-memory state:

* **internal**, on loopback: Flower's own app with the control API (submit, stop,
  list; needs our bearer token) and the runtime API (tasks; needs the launcher's
  secret, then a task's token). The fleet API is not on it.
* **public**: ten fleet calls by exact path, three calls by which a site asks for
  models (`server.model_calls`), one by which it has its ledger's head countersigned
  (`server.heads`), and `/health`. Not a filter in front of Flower's app
  but an app of its own that knows nothing else, so no odd spelling of a path can
  reach more. Fleet calls it authenticates with Flower's own function and answers
  with Flower's own handlers.

Three things the public listener does beyond Flower: a call for news is held open
until there is some (a round does not wait for polls, the hub does not serve them);
a node whose connection broke may come back at once instead of after a minute; and a
reply must come from the site it claims to come from.

State is lost when this process ends. That is meant: runs and checkpoints are in our
own store, and sites are registered again at start from `sites.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from flwr.app import Message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    NodeStatus,
)
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError, http_error_translator
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from schemas import audited
from schemas.errors import FaultsError
from schemas.headers import INSTANCE_HEADER, REASON_HEADER, TIME_HEADER
from schemas.ledger_head import HEAD_PATH, MAX_HEAD_BYTES
from schemas.logs import configure_logging
from schemas.model_call import MAX_CALL_BYTES, PREFIX
from schemas.processes import die_with_parent, run_and_end
from schemas.wire import POLL_S, FlowerDiffersError, verify_flower
from server.enrolled import Registry
from server.heads import HeadCalls
from server.hub_home import HubSettings, load_hub_settings
from server.listeners import BodyTooLargeError, InternalOnly, disconnected, make_server, read_body
from server.model_calls import ModelCalls
from server.online import note_online
from server.presence import Presence
from server.site_caller import CallAnswer

log = logging.getLogger("archipel.superlink")

Proto = Any  # the protobuf classes ship no types of their own

HOLD_S = 10.0
"""How long a site's call for news is held open; below every usual proxy's limit."""

_SMALL = 1 << 20
_LARGE = 256 << 20
_PROTOBUF = "application/x-protobuf"


# ---------------------------------------------------------------- the sites' listener
class _RefusedError(Exception):
    """A call that the listener itself refuses, with the word that tells the site why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class _Call:
    """One call of the fleet API: what it parses to, who answers, how long it may be."""

    request: Callable[[], Proto]
    answer: Callable[[Any], Proto]
    limit: int = _SMALL


class FleetListener:
    """The app behind the public port."""

    def __init__(self, flower: FastAPI, models: ModelCalls, heads: HeadCalls) -> None:
        self._flower = flower
        self._models = models
        self._heads = heads
        self._state: InMemoryLinkState = flower.state.linkstate_factory.state()
        self._presence = Presence()
        state, store = self._state, self._state.object_store
        handlers = fleet_handlers
        # Exactly what an agent uses. Registering and unregistering oneself is not among it: enrolment is ours.
        self._calls = {
            "activate-node": _Call(fleet_pb2.ActivateNodeRequest, lambda r: handlers.activate_node(r, state)),
            "deactivate-node": _Call(fleet_pb2.DeactivateNodeRequest, self._deactivate),
            "send-node-heartbeat": _Call(
                heartbeat_pb2.SendNodeHeartbeatRequest, lambda r: handlers.send_node_heartbeat(r, state)
            ),
            "pull-messages": _Call(fleet_pb2.PullMessagesRequest, lambda r: handlers.pull_messages(r, state, store)),
            "push-messages": _Call(fleet_pb2.PushMessagesRequest, self._push_messages),
            "get-run": _Call(run_pb2.GetRunRequest, lambda r: handlers.get_run(r, state)),
            "get-fab": _Call(fab_pb2.GetFabRequest, lambda r: handlers.get_fab(r, state)),
            "push-object": _Call(message_pb2.PushObjectRequest, lambda r: handlers.push_object(r, state), _LARGE),
            "pull-object": _Call(message_pb2.PullObjectRequest, lambda r: handlers.pull_object(r, state)),
            "confirm-message-received": _Call(
                message_pb2.ConfirmMessageReceivedRequest,
                lambda r: handlers.confirm_message_received(r, state, store),
            ),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; everything that is not listed is 404."""
        if scope["type"] != "http":
            return
        # The raw path, so that no escape or doubled slash can stand for a listed name.
        path = bytes(scope["raw_path"])
        call = self._calls.get(path.removeprefix(b"/v1/fleet/").decode("latin-1"))
        if scope["method"] == "GET" and path == b"/health":
            response: Response = PlainTextResponse("ok")
        elif scope["method"] == "POST" and path.startswith(PREFIX.encode()):
            response = await _site_call(self._models.answer, path, Request(scope, receive), MAX_CALL_BYTES)
        elif scope["method"] == "POST" and path == HEAD_PATH.encode():
            response = await _site_call(self._heads.answer, path, Request(scope, receive), MAX_HEAD_BYTES)
        elif scope["method"] != "POST" or not path.startswith(b"/v1/fleet/") or call is None:
            response = PlainTextResponse("not found", HTTPStatus.NOT_FOUND)
        else:
            # Flower's own translation, so that its client understands our refusals as it does Flower's.
            request = Request({**scope, "app": self._flower, "state": {}}, receive)
            response = await http_error_translator(request, lambda r: self._serve(call, r, receive))
        response.headers[TIME_HEADER] = f"{time.time():.3f}"
        with contextlib.suppress(OSError):
            await response(scope, receive, send)

    async def _serve(self, call: _Call, request: Request, receive: Receive) -> Response:
        try:
            message = await self._parse(call, request)
            if isinstance(message, fleet_pb2.ActivateNodeRequest):
                self._make_room(message.public_key, request.headers.get(INSTANCE_HEADER, ""))
            elif isinstance(message, fleet_pb2.DeactivateNodeRequest):
                self._presence.leave(message.node_id)
            else:
                self._presence.hear(message.node.node_id)
            if isinstance(message, fleet_pb2.PullMessagesRequest):
                await self._hold(message.node.node_id, receive)
            answer = await run_in_threadpool(call.answer, message)
        except _RefusedError as error:
            return PlainTextResponse(error.reason, error.status, {REASON_HEADER: error.reason})
        return Response(answer.SerializeToString(), media_type=_PROTOBUF)

    async def _parse(self, call: _Call, request: Request) -> Proto:
        key = _header_key(request)
        if key is None or self._state.get_node_id_by_public_key(key) is None:
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "not-enrolled")
        # Before a large body is read: a stranger who knows a public key must not make the hub hold 256 MiB.
        if call.limit > _SMALL and not _is_signed(request, key):
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "connection-unknown")
        message = call.request()
        try:
            message.ParseFromString(await read_body(request, call.limit))
        except BodyTooLargeError:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large") from None
        except DecodeError:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "malformed") from None
        request.state.protobuf_request = message
        try:
            await run_in_threadpool(authenticate_node, request)
        except HTTPException:
            reason = "clock" if _is_clock_off(request) else "connection-unknown"
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, reason) from None
        return message

    async def _hold(self, node_id: int, receive: Receive) -> None:
        """Returns when there is a message for the node, when it is gone, or after `HOLD_S`."""
        self._state.acknowledge_node_heartbeat(node_id, HEARTBEAT_DEFAULT_INTERVAL)
        gone = asyncio.ensure_future(disconnected(receive))
        end = time.monotonic() + HOLD_S
        try:
            while not self._has_message(node_id) and time.monotonic() < end:
                if (await asyncio.wait({gone}, timeout=POLL_S / 2))[0]:
                    # It died or its line broke while idle: offline now, not in a minute.
                    self._presence.leave(node_id)
                    self._state.deactivate_node(node_id)
                    raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "gone")
                if self._state.nodes[node_id].status == NodeStatus.UNREGISTERED:
                    raise _RefusedError(HTTPStatus.UNAUTHORIZED, "not-enrolled")  # revoked while it waited
        finally:
            gone.cancel()
        self._presence.hear(node_id)

    def _has_message(self, node_id: int) -> bool:
        state = self._state
        with state.lock:
            waiting = [
                message.metadata.message_id
                for message in state.message_ins_store.values()
                if message.metadata.dst_node_id == node_id and message.metadata.delivered_at == ""
            ]
        return any(_is_complete(state, message_id) for message_id in waiting)

    def _make_room(self, key: bytes, instance: str) -> None:
        node_id = self._state.get_node_id_by_public_key(key)
        if node_id is None:
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "not-enrolled")
        if not self._presence.replace(node_id, instance) and self._is_online(node_id):
            raise _RefusedError(HTTPStatus.CONFLICT, "already-online")
        self._state.deactivate_node(node_id)
        self._deliver_again(node_id)

    def _is_online(self, node_id: int) -> bool:
        return any(info.status == NodeStatus.ONLINE for info in self._state.get_node_info(node_ids=[node_id]))

    def _deliver_again(self, node_id: int) -> None:
        """Marks what a node took and never answered as new: it died on the way, and the next one answers.

        Flower delivers once, so the round would wait for its deadline in vain.
        The site's gate knows a request it already answered and sends the same bytes.
        """
        state = self._state
        with state.lock:
            for message_id, message in state.message_ins_store.items():
                if message.metadata.dst_node_id != node_id:
                    continue
                reply_id = state.message_ins_id_to_message_res_id.get(message_id)
                if reply_id is not None and _is_complete(state, reply_id):
                    continue
                if reply_id is not None:  # half of a reply: its other half died with the agent
                    del state.message_ins_id_to_message_res_id[message_id]
                    state.message_res_store.pop(reply_id, None)
                    state.object_store.delete(reply_id)
                message.metadata.delivered_at = ""

    def _deactivate(self, request: fleet_pb2.DeactivateNodeRequest) -> Proto:
        if not self._is_online(request.node_id):
            return fleet_pb2.DeactivateNodeResponse()  # its broken connection said so already
        return fleet_handlers.deactivate_node(request, self._state)

    def _push_messages(self, request: fleet_pb2.PushMessagesRequest) -> Proto:
        # Flower checks that a reply names the node that was asked, not that this node sent it.
        senders = [message.metadata.src_node_id for message in request.messages_list]
        if senders != [request.node.node_id] or len(request.message_object_trees) != 1:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "malformed")
        return fleet_handlers.push_messages(request, self._state)


async def _site_call(
    answer: Callable[[str, Any, bytes], CallAnswer], path: bytes, request: Request, limit: int
) -> Response:
    try:
        body = await read_body(request, limit)
    except BodyTooLargeError:
        return PlainTextResponse("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {REASON_HEADER: "too-large"})
    found = await run_in_threadpool(answer, path.decode("latin-1"), request.headers, body)
    return Response(found.body, found.status, {REASON_HEADER: found.reason} if found.reason else None)


def _is_complete(state: InMemoryLinkState, message_id: str) -> bool:
    """Returns whether all objects of a message have arrived, or can no longer arrive."""
    store = state.object_store
    try:
        tree = store.get_object_tree(message_id)
    except NoObjectInStoreError:
        return True  # nothing to wait for: the handlers delete such a message
    return all(store.get(node.object_id) for node in iterate_object_tree(tree))


def _hold_back_half_replies(state: InMemoryLinkState) -> None:
    """Shows the server app a reply when all of it is there.

    A reply is announced before its objects arrive. If its site dies in between,
    Flower's grid waits two hours for them, far beyond any deadline of ours.
    """
    get_replies = state.get_message_res

    def get_complete_replies(message_ids: set[str], run_id: int) -> list[Message]:
        with state.lock:
            replies = {one: state.message_ins_id_to_message_res_id.get(one) for one in message_ids}
            half = {one for one, reply in replies.items() if reply is not None and not _is_complete(state, reply)}
            return get_replies(message_ids - half, run_id)

    state.__dict__["get_message_res"] = get_complete_replies


def _header_key(request: Request) -> bytes | None:
    try:
        return b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
    except (KeyError, ValueError):
        return None


def _is_signed(request: Request, key: bytes) -> bool:
    try:
        signature = b64decode(request.headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        signed = request.headers[TIMESTAMP_HEADER].encode("ascii")
    except (KeyError, ValueError):
        return False
    return verify_signature(bytes_to_public_key(key), signed, signature)


def _is_clock_off(request: Request) -> bool:
    try:
        age_s = (now() - datetime.fromisoformat(request.headers[TIMESTAMP_HEADER])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return False
    return not -SYSTEM_TIME_TOLERANCE < age_s < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


# ---------------------------------------------------------------- the hub's own listener
class _NoLegacyServers:
    """Stands in for the lifespan of `flower-superlink`, which starts gRPC servers and a subprocess executor."""

    def __init__(self, config: object, state_factory: object) -> None:
        pass

    def startup(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def _flower_config(settings: HubSettings) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=settings.internal_port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=settings.superexec_secret.read_bytes(),
        # Who may call the control API is decided before Flower sees the call: `InternalOnly`.
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(settings.authority),
        ssl_certfile=str(settings.server_certificate),
        ssl_keyfile=str(settings.server_key),
        database=FLWR_IN_MEMORY_DB_NAME,
        # In subprocess isolation whoever reaches the port can take the server app's task.
        isolation="process",
        runtime_dependency_install=False,
    )


# ---------------------------------------------------------------- who is enrolled
class _FlowerNodes:
    """Registers and drops nodes in Flower's state, for `server.enrolled.Registry`."""

    def __init__(self, state: InMemoryLinkState) -> None:
        self._state = state

    def add(self, name: str, key: bytes) -> int:
        return self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name)

    def drop(self, key: bytes, node_id: int) -> None:
        # Flower compares a time that is None for a node that never came online, after it marked it as gone.
        with contextlib.suppress(TypeError):
            self._state.delete_node(NOOP_FLWR_AID, node_id)
        # Flower never frees a key; a site enrolled again keeps its own.
        self._state.node_public_key_to_node_id.pop(key, None)

    def count_online(self) -> int:
        return len(self._state.get_node_info(statuses=[NodeStatus.ONLINE]))


# ---------------------------------------------------------------- the process
async def _serve(settings: HubSettings) -> None:
    flower = create_app(_flower_config(settings), _NoLegacyServers)  # type: ignore[arg-type]
    state = flower.state.linkstate_factory.state()
    _hold_back_half_replies(state)
    nodes = _FlowerNodes(state)
    registry = Registry(settings, nodes)
    registry.sync()
    token = settings.control_token.read_text("ascii").strip()
    inner = make_server(InternalOnly(flower, token), "127.0.0.1", settings.internal_port, settings, "on")
    public = FleetListener(flower, ModelCalls(settings), HeadCalls(settings))
    outer = make_server(public, settings.listen, settings.public_port, settings, "off")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(inner.serve()), asyncio.create_task(outer.serve())]
    log.info("serving sites on %s:%d", settings.listen, settings.public_port)
    online = -1
    while not stop.is_set() and not any(task.done() for task in tasks):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.25)
        registry.sync()
        if (count := nodes.count_online()) != online:
            note_online(settings.home, online := count)
    inner.should_exit = outer.should_exit = True
    await asyncio.gather(*tasks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until a signal; returns 1 on wrong settings or another Flower."""
    parser = argparse.ArgumentParser(prog="server.superlink", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args(arguments).home
    configure_logging({"flwr": logging.ERROR})
    try:
        die_with_parent()
        verify_flower(audited.SUPERLINK)
        asyncio.run(_serve(load_hub_settings(home)))
    except (FlowerDiffersError, FaultsError, FlowerError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    run_and_end(main)
