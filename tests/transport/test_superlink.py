"""What the hub lets in: sites that are enrolled, ten calls, and nothing else."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from schemas.headers import REASON_HEADER
from server.hub_home import hub_init
from server.launcher import HubUnreachableError, online_sites, status, stop
from tests.doubles.federation import Federation, Party, until


def call(federation: Federation, method: str, path: str, *, port: int | None = None) -> int:
    """One request whose path is sent exactly as given."""
    context = ssl.create_default_context(cafile=str(federation.settings.authority))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port or federation.settings.public_port, context=context, timeout=10
    )
    try:
        connection.putrequest(method, path)
        connection.putheader("content-type", "application/x-protobuf")
        connection.putheader("content-length", "0")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/list-runs"),
        ("POST", "/v1/control/get-login-details"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/runtime/pull-task-input"),
        ("POST", "//v1/control/list-runs"),
        ("POST", "/v1/fleet/../control/list-runs"),
        ("POST", "/v1/fleet/%2e%2e/control/list-runs"),
        ("POST", "/v1/fleet/..%2fcontrol/list-runs"),
        ("POST", "/v1%2fcontrol%2flist-runs"),
        ("POST", "/health/../v1/control/list-runs"),
        ("POST", "/v1/fleet/"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/pull%2dmessages"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/pull-messages"),
        ("OPTIONS", "/v1/fleet/pull-messages"),
        ("POST", "/health"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("GET", "*"),
    ],
)
def test_public_port_is_404_to_all_but_fleet_and_health(federation: Federation, method: str, path: str) -> None:
    assert call(federation, method, path) == 404


def test_public_port_serves_health_and_asks_sites_for_their_key(federation: Federation) -> None:
    assert call(federation, "GET", "/health") == 200
    assert call(federation, "POST", "/v1/fleet/pull-messages") == 401


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1/fleet/pull-messages", "/"])
def test_internal_port_has_neither_fleet_nor_documentation(federation: Federation, path: str) -> None:
    assert call(federation, "POST", path, port=federation.settings.internal_port) == 404


def test_even_the_login_calls_of_control_need_the_token(federation: Federation) -> None:
    path = "/v1/control/get-login-details"
    assert call(federation, "POST", path, port=federation.settings.internal_port) == 401


@pytest.mark.parametrize("token", ["", "guess"])
def test_control_needs_the_token(federation: Federation, token: str) -> None:
    class Bearer:
        def intercept(self, context: Any, call_next: Any) -> httpx.Response:
            if token:
                context.request.headers["authorization"] = f"Bearer {token}"
            response: httpx.Response = call_next(context)
            return response

    client = ControlHttpClient.from_server_address(
        federation.settings.internal_address, False, federation.settings.authority.read_bytes(), [Bearer()]
    )
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.ListNodes(ListNodesRequest())
    client.close()
    assert caught.value.response.status_code == 401


def test_tasks_need_the_launchers_secret(federation: Federation) -> None:
    client = RuntimeHttpClient.from_server_address(
        federation.settings.internal_address, False, federation.settings.authority.read_bytes(), []
    )
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["serverapp"]))
    client.close()
    assert caught.value.response.status_code in (401, 403)


def node_ids(federation: Federation) -> dict[str, int]:
    found: dict[str, int] = json.loads(federation.settings.nodes_file.read_text())
    return found


def fleet_client(federation: Federation, site: Party) -> FleetHttpClient:
    key: Any = load_pem_private_key((site.home / "keys" / "node.key").read_bytes(), None)
    return FleetHttpClient.from_server_address(
        f"127.0.0.1:{federation.settings.public_port}",
        False,
        federation.settings.authority.read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    )


def test_a_site_cannot_take_another_sites_messages(federation: Federation) -> None:
    client = fleet_client(federation, federation.sites["lyon"])
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.PullMessages(PullMessagesRequest(node=Node(node_id=node_ids(federation)["paris"])))
    client.close()
    assert caught.value.response.status_code == 401


def test_a_site_cannot_answer_for_another(federation: Federation) -> None:
    nodes = node_ids(federation)
    forged = Message(metadata=Metadata(run_id=1, src_node_id=nodes["paris"], dst_node_id=1, reply_to_message_id="x"))
    client = fleet_client(federation, federation.sites["lyon"])
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.PushMessages(
            PushMessagesRequest(
                node=Node(node_id=nodes["lyon"]), messages_list=[forged], message_object_trees=[ObjectTree()]
            )
        )
    client.close()
    assert caught.value.response.status_code == 400
    assert caught.value.response.headers[REASON_HEADER] == "malformed"


def test_a_site_is_refused_until_enrolled_and_after_revocation(federation: Federation) -> None:
    brest = federation.add_site("brest")
    brest.start()
    brest.await_log("agent", "Send request.json to the hub's administrator")
    federation.enrol("paris", "lyon", "nantes", "brest")
    assert federation.ask({"brest": b"hello"}, 60) == {"brest": b"echo:hello"}
    assert {"brest", "paris"} <= online_sites(federation.settings.home)
    before = brest.log("agent").count("Send request.json")
    federation.enrol("paris", "lyon", "nantes")
    outcome = federation.ask({"brest": b"hello", "paris": b"hello"}, 5.0)
    assert outcome["paris"] == b"echo:hello"
    assert outcome["brest"] == {"site": "brest", "reason": "offline", "code": ""}
    assert "brest" not in online_sites(federation.settings.home)
    until(lambda: brest.log("agent").count("Send request.json") > before, "the sentence again")
    brest.stop()


def test_a_hub_of_another_authority_is_refused(federation: Federation, tmp_path: Any) -> None:
    other = hub_init(tmp_path / "other", public_port=0, internal_port=0)
    nice = federation.add_site("nice")
    shutil.copy(other.authority, nice.home / "keys" / "hub-ca.crt")
    nice.start()
    nice.await_log("agent", "was not issued by this site's keys/hub-ca.crt")
    nice.stop()


@pytest.mark.parametrize(
    ("ahead_s", "text"), [("9", "s ahead of the hub's, and the hub refuses"), ("4", "s ahead of the hub's; the hub")]
)
def test_a_clock_that_is_off_is_named(federation: Federation, ahead_s: str, text: str) -> None:
    name = f"late{ahead_s}"
    site = federation.add_site(name, environment={"TEST_CLOCK_AHEAD_S": ahead_s})
    federation.enrol("paris", "lyon", "nantes", name)
    site.start()
    site.await_log("agent", text)
    site.await_log("agent", "Set it right (NTP")
    site.stop()
    federation.enrol("paris", "lyon", "nantes")


def test_status_and_stop_of_a_run(federation: Federation) -> None:
    home = federation.settings.home
    run_id, flower_run, _ = federation.submit_and_await(({"paris": b"sleep:30"}, 60.0))
    assert stop(home, flower_run) is True
    assert status(home, flower_run) == "stopped"
    assert stop(home, flower_run) is False
    assert status(home, 12345) == "unknown"
    # The run's process is gone too, and the site, whose request has lost its run, serves the next.
    assert federation.ask({"paris": b"again"}, 60) == {"paris": b"echo:again"}
    assert not (home / "results" / f"{run_id}.jsonl").read_text()


def test_a_hub_that_is_down_is_named(tmp_path: Any) -> None:
    settings = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    with pytest.raises(HubUnreachableError, match="archipel hub up"):
        status(settings.home, 1)
