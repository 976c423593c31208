"""The exchange over Flower, with the grid played in memory: who is asked, who is named, what counts as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from schemas.wire import from_record, to_record
from server.app import FlowerExchange
from server.exchange import Failure

NODES = {"paris": 11, "lyon": 22}

Behaviour = Callable[[Message], Message | None]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_task_id", 1), ("_run_id", 7), ("_node_id", SUPERLINK_NODE_ID)):
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.app._LOOK_AT_NODES_S", 0.01)
    monkeypatch.setattr("server.app.POLL_S", 0.005)


def echo(message: Message) -> Message:
    return Message(to_record(b"echo:" + from_record(message.content)), reply_to=message)


def silent(message: Message) -> None:
    return None


def says(code: int, *, hub: bool = False) -> Behaviour:
    def reply(message: Message) -> Message:
        answer = Message(Error(code, "Jeanne Moreau"), reply_to=message)
        if hub:
            answer.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return answer

    return reply


@dataclass
class Grid:
    """Answers each message as its node's next behaviour says; the last one stays."""

    behaviours: dict[int, list[Behaviour]]
    online: set[int] = field(default_factory=lambda: set(NODES.values()))
    comes_online_after: dict[int, int] = field(default_factory=dict)
    looks: int = 0
    sent: list[Message] = field(default_factory=list)
    strays: list[Message] = field(default_factory=list)
    replies: dict[str, Message] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        self.looks += 1
        self.online |= {node for node, after in self.comes_online_after.items() if self.looks > after}
        return list(self.online)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = message_id
            self.sent.append(message)
            behaviours = self.behaviours[message.metadata.dst_node_id]
            reply = (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(message)
            if reply is not None:
                self.replies[message_id] = reply
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self.replies.pop(one) for one in list(message_ids) if one in self.replies]
        return [*self.strays, *found]


def ask(grid: Grid, deadline_s: float = 1.0, **bodies: bytes) -> dict[str, bytes | Failure]:
    return FlowerExchange(grid, lambda: NODES).ask(bodies or {"paris": b"p", "lyon": b"l"}, deadline_s)


def test_each_site_gets_its_body_and_is_answered_by_name() -> None:
    seen = {}
    grid = Grid({11: [echo], 22: [echo]})
    outcomes = FlowerExchange(grid, lambda: NODES).ask(
        {"paris": b"p", "lyon": b"l"}, 5.0, on_reply=lambda site, outcome: seen.update({site: outcome})
    )
    assert outcomes == seen == {"paris": b"echo:p", "lyon": b"echo:l"}
    assert {m.metadata.dst_node_id: from_record(m.content) for m in grid.sent} == {11: b"p", 22: b"l"}


def test_a_silent_site_is_late_and_one_that_never_came_is_offline() -> None:
    grid = Grid({11: [silent], 22: [echo]}, online={11})
    assert ask(grid, 0.2) == {"paris": Failure("paris", "late"), "lyon": Failure("lyon", "offline")}


def test_a_site_that_is_not_enrolled_is_offline() -> None:
    assert ask(Grid({11: [echo]}), 0.1, brest=b"x") == {"brest": Failure("brest", "offline")}


def test_a_site_that_comes_up_in_time_is_asked_then() -> None:
    grid = Grid({11: [echo], 22: [echo]}, online={11}, comes_online_after={22: 3})
    assert ask(grid, 5.0) == {"paris": b"echo:p", "lyon": b"echo:l"}


@pytest.mark.parametrize(
    "code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE]
)
def test_a_site_that_was_lost_is_asked_again(code: int) -> None:
    grid = Grid({11: [says(code, hub=True), echo], 22: [echo]})
    assert ask(grid, 5.0) == {"paris": b"echo:p", "lyon": b"echo:l"}
    assert len(grid.sent) == 3


def test_of_a_refusal_only_the_number_is_kept() -> None:
    # Also where a site uses the hub's own code: it is the hub that decides who is lost.
    grid = Grid({11: [says(102)], 22: [says(ErrorCode.NODE_UNAVAILABLE)]})
    assert ask(grid) == {"paris": Failure("paris", "refused", "102"), "lyon": Failure("lyon", "refused", "5")}


@pytest.mark.parametrize(
    "content",
    [{}, {"archipel": ConfigRecord({"body": b"x"}), "extra": ConfigRecord({"a": 1})}],
    ids=["none", "extra"],
)
def test_a_reply_that_is_not_one_body_is_malformed(content: dict[str, ConfigRecord]) -> None:
    grid = Grid({11: [lambda m: Message(RecordDict(dict(content)), reply_to=m)], 22: [echo]})
    assert ask(grid) == {"paris": Failure("paris", "malformed"), "lyon": b"echo:l"}


def test_a_reply_to_another_question_is_not_taken() -> None:
    grid = Grid({11: [echo], 22: [silent]})
    old = Message(to_record(b"old"), 22, "query")
    old.metadata.__dict__["_message_id"] = "of an earlier round"
    grid.strays = [Message(to_record(b"late answer"), reply_to=old)]
    assert ask(grid, 0.2) == {"paris": b"echo:p", "lyon": Failure("lyon", "late")}


def test_messages_expire_just_after_the_deadline() -> None:
    grid = Grid({11: [echo], 22: [echo]})
    ask(grid, 30.0)
    assert all(30.0 <= message.metadata.ttl <= 31.5 for message in grid.sent)
