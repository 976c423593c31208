"""The application behind `archipel site view`: pages, JSON interface, files, and what an error looks like."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from client.page import api, pages
from client.page.desk import Desk, NotFoundHereError, TooManyViewsError
from client.page.guarding import Guarding
from client.page.reader import N_
from client.page.visiting import FormRefusedError, SignInNeededError, visit
from schemas.errors import ArchipelError

__all__ = ["make_app", "make_pages"]

_THREADS = 4
_STATIC = Path(__file__).parent / "static"
_MESSAGES = {
    400: (N_("The request was not understood"), N_("Please go back and try again.")),
    403: (
        N_("The form was not taken"),
        N_("It came from another page, or the session has ended. Please go back to the start and try again."),
    ),
    404: (N_("Not here"), N_("There is no such page, or it was closed when the session ended.")),
    405: (N_("Not here"), N_("There is no such page, or it was closed when the session ended.")),
    429: (
        N_("Too many patients in a minute"),
        N_("This account has looked at as many patients in a minute as this site allows. Please wait a little."),
    ),
    500: (
        N_("The page failed"),
        N_("Nothing was shown. This site's administrator finds more in the page's own output."),
    ),
    503: (
        N_("The page cannot answer now"),
        N_("Something at this site cannot be read. Its administrator finds more in the page's own output."),
    ),
}


def make_app(desk: Desk, *, hosts: frozenset[str], over_tls: bool) -> ASGIApp:
    """Return what answers: `make_pages` behind `client.page.guarding`.

    Args:
        desk: The site behind it.
        hosts: Names that it answers under; see `client.page.guarding`.
        over_tls: Whether it is served with a certificate.
    """
    # Outermost, so that the answer to a failure carries the headers too.
    return Guarding(make_pages(desk, over_tls=over_tls), hosts, over_tls=over_tls)


def make_pages(desk: Desk, *, over_tls: bool) -> FastAPI:
    """Return the application itself."""
    app = FastAPI(
        lifespan=_few_threads,
        title="Archipel: prognosis at this site",
        description="Research use only. Not a medical device. Nothing is sent anywhere from this site.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.desk = desk
    app.state.over_tls = over_tls
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.include_router(api.router)
    app.include_router(pages.router)
    app.add_exception_handler(SignInNeededError, _to_sign_in)
    app.add_exception_handler(FormRefusedError, _status(403))
    app.add_exception_handler(NotFoundHereError, _status(404))
    app.add_exception_handler(TooManyViewsError, _status(429))
    app.add_exception_handler(ArchipelError, _status(503))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _status(500))
    return app


@contextlib.asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    """Answer a few at a time: many threads take turns at one interpreter, and then all answers are late."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield


async def _to_sign_in(request: Request, error: Exception) -> Response:
    asking = visit(request)
    if asking.is_partial:  # the whole page has to change, not the part that htmx asked for
        return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
    return asking.go("/sign-in")


def _message(request: Request, status: int) -> Response:
    heading, words = _MESSAGES.get(status, _MESSAGES[400])
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": words}, status_code=status)
    asking = visit(request)
    return asking.page("message", status=status, heading=asking.reader.text(heading), words=asking.reader.text(words))


def _status(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return _message(request, status)

    return answer


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)
    return _message(request, error.status_code)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.url.path.startswith("/api/"):
        # Without what was sent: a body may hold a patient's values.
        bare = [{key: one[key] for key in ("loc", "msg", "type")} for one in error.errors()]
        return await request_validation_exception_handler(request, RequestValidationError(bare))
    return _message(request, 400)
