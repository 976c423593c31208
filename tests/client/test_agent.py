"""The agent's own part: a message that leaves is built from the hub's address and the gate's bytes, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from client.agent import Agent
from client.guard_protocol import Answer, Run
from client.link import LateError
from schemas.wire import SiteFault, from_record, to_record

PATIENT = "Jeanne Moreau"


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_task_id", 1), ("_run_id", 7), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


class Gate:
    def __init__(self, verdict: Any = None, released: Any = b"released") -> None:
        self.verdict = Run() if verdict is None else verdict
        self.released = released
        self.calls: list[tuple[str, object, object]] = []

    def admit(self, request: bytes) -> Any:
        self.calls.append(("admit", request, None))
        return self.verdict

    def release(self, request: bytes, draft: bytes | None) -> Any:
        self.calls.append(("release", request, draft))
        if isinstance(self.released, Exception):
            raise self.released
        return self.released


class Hub:
    """The callbacks of Flower's connection, in memory."""

    def __init__(self, content: RecordDict | Error, *, ended: bool = False) -> None:
        self.message = Message(content, 22, "query", group_id="3") if isinstance(content, RecordDict) else None
        self.ended = ended
        self.sent: list[tuple[Message, ObjectTree, float]] = []
        self.pushed: dict[str, bytes] = {}
        self.confirmed = 0
        assert self.message is not None
        with no_object_id_recompute():
            self.message.metadata.__dict__["_message_id"] = self.message.object_id
            self.tree = get_object_tree(self.message)
            self.objects = {name: one.deflate() for name, one in get_all_nested_objects(self.message).items()}

    def receive(self) -> tuple[Message, ObjectTree] | None:
        assert self.message is not None
        return self.message, self.tree

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        return self.objects[object_id]

    def send(self, message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        if self.ended:
            raise RunNotRunningException
        self.sent.append((message, tree, seconds))
        return set(_ids(tree)), "session"

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        self.pushed[object_id] = content

    def confirm(self, run_id: int, message_id: str) -> None:
        self.confirmed += 1

    def serve(self, agent: Agent) -> None:
        run_id = agent.pull(
            receive=self.receive,
            get_run=lambda run_id: None,
            pull_object=self.pull_object,
            confirm_message_received=self.confirm,
            state=None,
            get_fab=_never,
        )
        assert run_id == 7
        agent.push(send=self.send, push_object=self.push_object, state=None, object_store=None)

    def received(self) -> Message:
        """What a hub makes of the pushed objects."""
        message, _, _ = self.sent[0]
        inflated = inflate_object_from_contents(message.metadata.message_id, dict(self.pushed))
        assert isinstance(inflated, Message)
        return inflated


def _ids(tree: ObjectTree) -> list[str]:
    return [tree.object_id, *(one for child in tree.children for one in _ids(child))]


def _never(*_: object) -> Any:
    raise AssertionError("the bundle is not fetched")


def drafting(draft: bytes | None) -> Callable[[bytes, float, Callable[[], bool]], bytes | None]:
    return lambda request, time_s, is_wanted: draft


def test_the_reply_is_the_released_bytes_at_the_hubs_address() -> None:
    gate, hub = Gate(), Hub(to_record(b"question"))
    hub.serve(Agent(gate, drafting(b"draft")))
    assert gate.calls == [("admit", b"question", None), ("release", b"question", b"draft")]
    reply = hub.received()
    assert from_record(reply.content) == b"released"
    assert hub.message is not None
    asked = hub.message.metadata
    told = reply.metadata
    assert (told.run_id, told.group_id, told.message_type) == (asked.run_id, asked.group_id, asked.message_type)
    assert (told.src_node_id, told.dst_node_id) == (asked.dst_node_id, asked.src_node_id)
    assert told.reply_to_message_id == asked.message_id
    assert len(hub.pushed) == 3
    assert set(hub.pushed) == set(_ids(hub.sent[0][1]))
    assert hub.sent[0][2] == 0.0  # how long the site took stays there
    assert hub.confirmed == 1


def test_an_answer_of_the_gate_does_not_ask_the_runner() -> None:
    hub = Hub(to_record(b"question"))
    hub.serve(Agent(Gate(Answer(b"known")), _never))
    assert from_record(hub.received().content) == b"known"


@pytest.mark.parametrize(
    "gate",
    [
        Gate(released=ValueError(PATIENT)),
        Gate(released=PATIENT),
        Gate(released=bytearray(b"x")),
        Gate(released=None),
        Gate(verdict=PATIENT),
        Gate(verdict=Answer(PATIENT)),  # type: ignore[arg-type]
    ],
)
def test_a_gate_that_fails_lets_out_a_number(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(to_record(b"question"))
    hub.serve(Agent(gate, drafting(b"draft")))
    reply = hub.received()
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (SiteFault.GATE_FAILED, "GATE_FAILED")
    assert PATIENT.encode() not in b"".join(hub.pushed.values())
    assert PATIENT not in caplog.text


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"archipel": ConfigRecord({"body": b"x"}), "extra": ConfigRecord({"a": 1})},
        {"archipel": ConfigRecord({"body": "text"})},
        {"archipel": ArrayRecord({"body": Array("float64", (1,), "numpy.ndarray", b"x")})},
    ],
)
def test_a_request_that_is_not_one_body_is_refused_before_the_gate(record: dict[str, Any]) -> None:
    gate, hub = Gate(), Hub(RecordDict(record))
    hub.serve(Agent(gate, _never))
    assert hub.received().error.code == SiteFault.MALFORMED_REQUEST
    assert gate.calls == []


def test_objects_that_are_not_what_they_are_named_after_are_refused() -> None:
    hub = Hub(to_record(b"question"))
    other = Hub(to_record(b"another"))
    hub.objects = dict(zip(hub.objects, other.objects.values(), strict=True))
    hub.serve(Agent(Gate(), _never))
    assert hub.received().error.code == SiteFault.MALFORMED_REQUEST


def test_nothing_leaves_when_the_hub_no_longer_waits() -> None:
    def late(request: bytes, time_s: float, is_wanted: Callable[[], bool]) -> bytes:
        raise LateError

    gate, hub = Gate(), Hub(to_record(b"question"))
    hub.serve(Agent(gate, late))
    assert hub.sent == []
    assert [name for name, _, _ in gate.calls] == ["admit"]  # nothing was released, so nothing is in the ledger
    assert hub.confirmed == 1


def test_a_run_that_has_ended_is_dropped_without_a_word() -> None:
    hub = Hub(to_record(b"question"), ended=True)
    hub.serve(Agent(Gate(), drafting(b"draft")))
    assert hub.sent == []
