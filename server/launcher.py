"""Starts, stops and looks after the Flower runs that carry our rounds.

`python -m server.launcher --home DIR` stands in for `flower-superexec`: a warm
parent asks the SuperLink for server tasks and forks a child for each, which runs
the installed `server.app` and never the code of the bundle. Where the stock
process ends at the first HTTP 500, this one goes on; a child that dies is reported
at once, where Flower would notice after a minute. Runs that a dead hub or a dead child left
behind are submitted again (`server.left_behind`).

`submit`, `stop` and `status` are calls of the control API on loopback, without a
subprocess: a status costs milliseconds, so it may be polled.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import importlib
import io
import logging
import os
import signal
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from sqlalchemy.exc import SQLAlchemyError

from schemas import audited
from schemas.errors import ArchipelError, FaultsError
from schemas.logs import configure_logging, name_process
from schemas.processes import die_with_parent, end_with_parent
from schemas.wire import FlowerDiffersError, shorten_backoff, verify_flower
from server.app import HOME_VARIABLE, RUN_KEY, app
from server.hub_home import HubSettings, load_hub_settings, write_private
from server.left_behind import LeftBehind, forget_runs, note_run, run_of, take_run

__all__ = ["HubUnreachableError", "RunState", "main", "online_sites", "status", "stop", "submit"]

log = logging.getLogger("archipel.launcher")

RunState = Literal["waiting", "running", "completed", "failed", "stopped", "unknown"]

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_LOOK_FOR_TASKS_S = 0.1
_WARM = ("numpy", "models", "schemas", "server.conduct")


class HubUnreachableError(ArchipelError):
    """The hub's control API does not answer, or does not accept this home's token."""


# ---------------------------------------------------------------- the control API
def submit(home: Path, run_id: str) -> int:
    """Submits one of our runs as a new Flower run and returns its Flower id.

    Raises:
        HubUnreachableError: The hub is not up.
    """
    content = _bundle()
    request = StartRunRequest(
        fab=fab_to_proto(Fab("", content, {})),
        override_config=user_config_to_proto({RUN_KEY: run_id}),
    )
    with _control(home) as client:
        return int(client.StartRun(request).run_id)


def stop(home: Path, flower_run_id: int) -> bool:
    """Stops a Flower run; returns whether it was there to be stopped.

    Raises:
        HubUnreachableError: The hub is not up.
    """
    with _control(home) as client:
        try:
            return bool(client.StopRun(StopRunRequest(run_id=flower_run_id)).success)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise
            return False  # unknown since a restart, or already over


def status(home: Path, flower_run_id: int) -> RunState:
    """Returns how a Flower run stands; "unknown" where the hub has restarted since.

    Raises:
        HubUnreachableError: The hub is not up.
    """
    with _control(home) as client:
        try:
            runs = client.ListRuns(ListRunsRequest(run_id=flower_run_id)).run_dict
        except httpx.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                return "unknown"
            raise
    run = run_from_proto(runs[flower_run_id])
    if run.status.status == Status.FINISHED:
        ends: dict[str, RunState] = {SubStatus.COMPLETED: "completed", SubStatus.STOPPED: "stopped"}
        return ends.get(run.status.sub_status, "failed")
    return "running" if run.status.status == Status.RUNNING else "waiting"


def online_sites(home: Path) -> frozenset[str]:
    """Returns the names of the sites that are connected now.

    Raises:
        HubUnreachableError: The hub is not up.
    """
    with _control(home) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    return frozenset(node.name for node in nodes if node.status == NodeStatus.ONLINE)


@contextlib.contextmanager
def _control(home: Path) -> Iterator[ControlHttpClient]:
    settings = load_hub_settings(home)
    client = ControlHttpClient.from_server_address(
        settings.internal_address,
        False,
        settings.authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr"),
            _BearerToken(settings.control_token.read_text("ascii").strip()),
        ],
    )
    try:
        yield client
    except httpx.TransportError:
        raise HubUnreachableError(
            f"The hub does not answer on {settings.internal_address}. Start it with `archipel hub up`; "
            f"why it ended is in {settings.home / 'logs'}."
        ) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise HubUnreachableError(
                f"What listens on {settings.internal_address} does not accept the token of {settings.home}: "
                "another hub uses this port."
            ) from None
        raise HubUnreachableError(f"The hub refused the call (HTTP {error.response.status_code}).") from None
    finally:
        client.close()


class _BearerToken:
    """Adds the hub's token to each call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


_BUNDLE_PROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "archipel-run"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "archipel"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["/LICENSE", "/archipel_stub.py"]

[tool.flwr.app.components]
serverapp = "archipel_stub:app"
clientapp = "archipel_stub:client"

[tool.flwr.app.config]
{RUN_KEY} = ""
"""

_BUNDLE_LICENCE = "Apache-2.0; the licence text is in the Archipel distribution.\n"

_BUNDLE_STUB = """\
# Names the installed code, for Flower's records. Neither hub nor site executes this file.
from server.app import app as _app

app = _app
client = None
"""


@functools.cache
def _bundle() -> bytes:
    """Returns the thin bundle that Flower wants with a run: no code of ours, and none that is executed.

    Written here and not by `flwr build`, which takes most of a second to import;
    a test holds the two equal.
    """
    files = {"pyproject.toml": _BUNDLE_PROJECT, "LICENSE": _BUNDLE_LICENCE, "archipel_stub.py": _BUNDLE_STUB}
    manifest = [
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{len(text.encode()) * 8}" for name, text in files.items()
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in {**files, ".info/CONTENT": "\n".join(manifest)}.items():
            # A fixed date: the same bundle has the same digest.
            bundle.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return buffer.getvalue()


# ---------------------------------------------------------------- the warm parent
class Launcher:
    """Takes server tasks from the SuperLink and forks a child for each."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._children: dict[int, str] = {}  # process id -> task token
        self._stopping = False
        self._left_behind = LeftBehind(settings.home, functools.partial(submit, settings.home))
        # At the start nobody conducts anything: whoever did has died with the launcher before this one.
        self._look_again = True

    def serve(self) -> None:
        """Runs until `stop`, whatever the SuperLink answers."""
        boss = self._client(
            SuperExecAuthHttpInterceptor(
                master_secret=self._settings.superexec_secret.read_bytes(),
                protected_methods=frozenset({_ACQUIRE}),
            )
        )
        self._report_orphans()
        trouble = False
        while not self._stopping:
            self._reap()
            try:
                answer = boss.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            except httpx.HTTPError as error:
                # The SuperLink is restarting or had a bad moment. Said once, tried for ever.
                if not trouble:
                    log.warning("the SuperLink gives no tasks (%s); trying again", _brief(error))
                trouble = True
                time.sleep(1.0)
                continue
            if trouble:
                log.info("the SuperLink answers again")
            self._look_again |= trouble  # it may be another one, which knows no run
            trouble = False
            self._resume_left_behind()
            if answer.HasField("task") and answer.token:
                self._fork(answer.token)
            else:
                time.sleep(_LOOK_FOR_TASKS_S)
        self._end_children()

    def stop(self) -> None:
        """Ends `serve` and the children."""
        self._stopping = True

    def _client(self, *interceptors: object) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._settings.internal_address,
            False,
            self._settings.authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), *interceptors],  # type: ignore[list-item]
        )

    def _fork(self, token: str) -> None:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                end_with_parent(parent)
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                name_process("server app")
                code = _conduct_task(self._settings, token)
            except BaseException:
                log.exception("a run ended with an error")
            finally:
                logging.shutdown()
                os._exit(code)
        self._children[child] = token
        try:
            write_private(self._token_file(child), token.encode())
            (self._settings.home / "run" / "serverapp.pid").write_text(f"{child}\n")
        except (OSError, ArchipelError) as error:
            # They serve whoever comes after a crash; a full disk must not end a run that needs no room for them.
            log.warning("the server task of process %d is not noted (%s)", child, type(error).__name__)
        log.info("server task started (process %d)", child)

    def _reap(self) -> None:
        for child, token in list(self._children.items()):
            ended, wait_status = os.waitpid(child, os.WNOHANG)
            if ended == 0:
                continue
            del self._children[child]
            self._token_file(child).unlink(missing_ok=True)
            code = os.waitstatus_to_exitcode(wait_status)
            log.info("server task ended (process %d, %d)", child, code)
            run_id = take_run(self._settings.home, child)
            if code != 0:
                self._report_failed(token)
                self._look_again = True
            elif run_id:
                self._left_behind.forget(run_id)

    def _resume_left_behind(self) -> None:
        if not self._look_again:
            return
        conducted = {run_of(self._settings.home, child) for child in self._children}
        try:
            self._left_behind.resume(conducted)
        except (ArchipelError, httpx.HTTPError, SQLAlchemyError) as error:
            # Not the end of the launcher: the runs it does conduct go on, and this is tried again.
            log.warning("runs that were left behind could not be submitted (%s); trying again", type(error).__name__)
            time.sleep(1.0)
            return
        self._look_again = False

    def _token_file(self, child: int) -> Path:
        return self._settings.home / "run" / f"task-{child}.token"

    def _report_orphans(self) -> None:
        # Children of a launcher that was killed died with it, and nobody told the SuperLink.
        for path in (self._settings.home / "run").glob("task-*.token"):
            self._report_failed(path.read_text("ascii"))
            path.unlink()
        forget_runs(self._settings.home)

    def _report_failed(self, token: str) -> None:
        # A child that was killed cannot say so; Flower would wait for its heartbeat to be missed.
        client = self._client(RuntimeTokenHttpInterceptor(token))
        with contextlib.suppress(httpx.HTTPError):
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="the process ended"))
        client.close()

    def _end_children(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        deadline = time.monotonic() + 3.0
        while self._children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)


def _conduct_task(settings: HubSettings, token: str) -> int:
    """Runs the installed ServerApp for one task; the child's whole life."""
    shorten_backoff()
    os.environ[HOME_VARIABLE] = str(settings.home)
    grid = HttpGrid(settings.internal_address, False, settings.authority.read_bytes(), token=token)
    client = grid._runtime_client
    given = client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id = given.task_id
    TaskIdentity.run_id = given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    HeartbeatSender(make_task_heartbeat_fn_http(client)).start()
    run = run_from_proto(given.run)
    grid.set_run(run)
    context = context_from_proto(given.context)
    # The run's own settings only. What else the bundle says does not count here either.
    context.run_config = {RUN_KEY: run.override_config[RUN_KEY]}
    note_run(settings.home, str(context.run_config[RUN_KEY]))
    try:
        app(grid=grid, context=context)
    except Exception:
        log.exception("the run failed")
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="the run failed"))
        return 0
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))
    return 0


def _brief(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until a signal; returns 1 on wrong settings or another Flower."""
    parser = argparse.ArgumentParser(prog="server.launcher", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args(arguments).home
    configure_logging({"flwr": logging.ERROR, "httpx": logging.WARNING})
    try:
        die_with_parent()
        verify_flower(audited.LAUNCHER)
        launcher = Launcher(load_hub_settings(home))
    except (FlowerDiffersError, FaultsError) as error:
        log.error("%s", error)
        return 1
    for name in _WARM:
        importlib.import_module(name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: launcher.stop())
    gc.collect()
    gc.freeze()
    launcher.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
