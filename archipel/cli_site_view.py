"""`archipel site view`: the clinician's page of this site."""

from __future__ import annotations

from typing import Annotated

import typer

from archipel.cli_common import SITE, SiteHome, say

__all__ = ["view"]


def view(
    home: SiteHome = SITE,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port; 0: a free one.", show_default="as site.toml says, else 8417"),
    ] = None,
) -> None:
    """Serve this site's page for clinicians until Ctrl-C: one patient's prognosis, computed here, sent nowhere.

    Accounts: `archipel site account add NAME`. On this machine alone, unless site.toml names a certificate.
    """
    from client.page.accounts import Accounts
    from client.page.serve import serve_page

    if not Accounts(home).accounts():
        say("Nobody can sign in yet: `archipel site account add NAME` makes an account, while the page runs too.")
    serve_page(
        home, port=port, on_ready=lambda address: say(f"The page is at {address} (Ctrl-C ends). Research use only.")
    )
