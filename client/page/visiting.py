"""Who asks for a page: the session behind the cookie, the token of the forms, the reader's language.

A form is taken when its token is the session's (before a session: the one in a short-lived cookie) and the browser
does not say that another site sent it. Both cookies are ``SameSite=Strict`` and unreadable for scripts.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup, escape
from starlette.datastructures import FormData

from client.page.desk import Desk, Signed
from client.page.reader import LANGUAGES, Reader, preferred, reader_of
from client.page.rendering import render

__all__ = ["FormRefusedError", "SignInNeededError", "Visit", "asking", "posted", "visit"]

SESSION_COOKIE = "archipel_session"
_FORM_COOKIE = "archipel_form"
_LANGUAGE_COOKIE = "archipel_language"
_MOST_FIELDS = 3000


class SignInNeededError(Exception):
    """The page is for people who have signed in."""


class FormRefusedError(Exception):
    """A form that this page did not hand out to this session."""


@dataclass(frozen=True)
class Visit:
    """One request's visitor.

    Attributes:
        signed: Who has signed in; None before.
        reader: The language.
        form_token: That the visitor's forms carry.
        here: Address to come back to after the language was changed; holds no patient but a handle.
    """

    desk: Desk
    signed: Signed | None
    reader: Reader
    form_token: str
    here: str
    over_tls: bool
    is_partial: bool

    def person(self) -> Signed:
        """Return who has signed in.

        Raises:
            SignInNeededError: Where nobody has.
        """
        if self.signed is None:
            raise SignInNeededError
        return self.signed

    def page(self, template: str, status: int = 200, **values: object) -> Response:
        """Return a page; of a partial request (htmx) the template itself, without what surrounds it."""
        content = render(
            template,
            self.reader.language,
            account=self.signed.account if self.signed is not None else "",
            site_title=self.desk.site_title,
            csrf_field=Markup(f'<input type="hidden" name="csrf" value="{escape(self.form_token)}">'),
            here=self.here,
            **values,
        )
        response = HTMLResponse(content, status_code=status)
        if self.signed is None:
            self._keep(response, _FORM_COOKIE, self.form_token, 3600)
        return response

    def go(self, address: str) -> Response:
        """Return the answer to a form that was taken: look there."""
        return RedirectResponse(address, status_code=303)

    def with_session(self, token: str) -> Response:
        """Return the answer to a sign-in."""
        response = self.go("/")
        response.delete_cookie(_FORM_COOKIE)
        self._keep(response, SESSION_COOKIE, token, None)
        return response

    def without_session(self) -> Response:
        """Return the answer to a sign-out."""
        response = self.go("/sign-in")
        response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict", secure=self.over_tls)
        return response

    def with_language(self, language: str, address: str) -> Response:
        """Return the answer to a choice of language."""
        response = self.go(address)
        if language in LANGUAGES:
            self._keep(response, _LANGUAGE_COOKIE, language, 365 * 86_400)
        return response

    def _keep(self, response: Response, name: str, value: str, seconds: int | None) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=self.over_tls
        )


async def asking(request: Request) -> Visit:
    """Return who asks, without a thread of its own: what it reads is small and in memory."""
    return visit(request)


def visit(request: Request) -> Visit:
    """Return who asks."""
    desk: Desk = request.app.state.desk
    signed = desk.session(request.cookies.get(SESSION_COOKIE, ""))
    language = preferred(request.cookies.get(_LANGUAGE_COOKIE, ""), request.headers.get("accept-language", ""))
    token = signed.form_token if signed is not None else _plain_token(request.cookies.get(_FORM_COOKIE, ""))
    here = request.url.path if request.method == "GET" else _back_of(request.url.path)
    query = f"?{request.url.query}" if request.method == "GET" and request.url.query else ""
    return Visit(
        desk=desk,
        signed=signed,
        reader=reader_of(language),
        form_token=token,
        here=here + query,
        over_tls=request.app.state.over_tls,
        is_partial=request.headers.get("hx-request") == "true",
    )


async def posted(request: Request) -> Mapping[str, str]:
    """Return a form's fields.

    Raises:
        FormRefusedError: When the form is not one that this page handed out.
    """
    form = await request.form(max_files=0, max_fields=_MOST_FIELDS)
    fields = _texts(form)
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise FormRefusedError
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host", ""):
        raise FormRefusedError
    asked = visit(request)
    held = asked.form_token if asked.signed is not None else request.cookies.get(_FORM_COOKIE, "")
    if not held or not hmac.compare_digest(fields.get("csrf", "").encode(), held.encode()):
        raise FormRefusedError
    return fields


def _texts(form: FormData) -> dict[str, str]:
    return {key: value for key, value in form.items() if isinstance(value, str)}


def _plain_token(held: str) -> str:
    """Return the token of a visitor without a session: the one in the cookie if it can be one, else a new one."""
    ours = len(held) == 43 and held.replace("-", "").replace("_", "").isalnum() and held.isascii()
    return held if ours else secrets.token_urlsafe(32)


def _back_of(path: str) -> str:
    """Return where a page that answers a form lies when it is asked for again."""
    return path if path.startswith("/form/") or path == "/sign-in" else "/"
