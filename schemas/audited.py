"""Which functions of Flower 1.41.0 were read, and the digest of each as it was then.

We replace some of them and rely on the behaviour of the others: on what they
check, on what they send, on the order in which they do it. A process that uses one
compares it with this table and does not start when it differs (`wire.verify_flower`).
After an upgrade of Flower: read the functions again, then renew the digests with
`schemas.wire.fingerprint`. No Flower is imported here.
"""

from __future__ import annotations

__all__ = ["AGENT", "LAUNCHER", "SUPERLINK"]

SUPERLINK: dict[str, str] = {
    "flwr.superlink.main:create_app": "ee966b630c8ba8b5",
    "flwr.superlink.routers.fleet.node_auth:authenticate_node": "f8e66372d61b3653",
    "flwr.superlink.servicer.fleet.fleet_handlers:activate_node": "0370edbbeb924eac",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_messages": "5f1d8861a9eb1465",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_messages": "70c2fe927c6693b0",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_object": "df7e96f1188e0a40",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_object": "78f6d45fda46df47",
    "flwr.supercore.dependencies.superexec:authenticate_superexec_request": "25520d5ab7206484",
    "flwr.supercore.dependencies.task:authenticate_task": "7b4c0c58ea91353a",
    "flwr.supercore.error.http:http_error_translator": "63e39a121204a42b",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState": "78ad01f312d1b163",
    "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore": "f0690484616df3c2",
}

AGENT: dict[str, str] = {
    "flwr.supernode.start_client_internal:start_client_internal": "9e89a6eb68fbec68",
    "flwr.supernode.start_client_internal:_pull_and_store_message": "eaf5d0e36dc34e4c",
    "flwr.supernode.start_client_internal:_push_messages": "00bb86faffdec114",
    "flwr.supernode.fleet_http_connection:http_request_response": "b80ca36779c2657f",
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": "a032beb3c41bf1bb",
    "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": "49e12326a4b17e26",
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": "31bb2de46b450e6a",
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "93b98a2ea3f35c4f",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "d247ce6d76fd2e69",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "409d9822fd87e1eb",
    "flwr.app.message.message:Message": "8171c040faa382a8",
    "flwr.app.message.recorddict:RecordDict": "bfefa55b9528107d",
    "flwr.app.message.configrecord:ConfigRecord": "bdf95537a3852d66",
}

LAUNCHER: dict[str, str] = {
    "flwr.superlink.grid.http_grid:HttpGrid": "72e288cdc292c3fd",
    "flwr.superlink.runtime.run_serverapp:run_serverapp": "2cf00cc3bc7ef87c",
    "flwr.supercore.superexec.run_superexec:run_superexec": "d11f4e7fbc8f0b12",
    "flwr.cli.build:build_fab_from_files": "4c576876bcbbcf6a",
}
