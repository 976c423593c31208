"""`archipel hub`: make a hub, run it, enrol and revoke sites, see how it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archipel import cli_keeping
from archipel.cli_common import HUB, AsJson, HubHome, command_group, print_json, say, verify_not_running

__all__ = ["app"]

app = command_group("The hub: make it, run it, enrol sites.")


@app.command()
def init(
    home: HubHome = HUB,
    host: Annotated[
        str, typer.Option(help="Name or address by which sites reach the hub; stands in its certificate.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for sites (the fleet API and health only); 0: a free one.")
    ] = 8443,
    internal_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on loopback for the hub's own processes; 0: a free one.")
    ] = 8000,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address to bind; by default every address, or loopback where --host is loopback.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A further name or address for the certificate; repeatable.")
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Issue the server's certificate again (825 days); sites change nothing.")
    ] = False,
) -> None:
    """Make the hub's folder: settings, authority (10 years), certificate (825 days), secrets, identity.

    What is there already is kept.
    """
    from archipel.enrol import fingerprint
    from archipel.homes import init_hub

    kept = (home / "hub.toml").exists()
    settings, identity = init_hub(
        home, host=host, public_port=port, internal_port=internal_port, listen=listen, names=name or (), renew=renew
    )
    say(f"The hub's folder is {settings.home}. Sites reach it at {settings.host}:{settings.public_port}.")
    if kept:
        say("Its settings were there and are kept; to change them, edit hub.toml and start the hub again.")
    if name and kept and not renew:
        say("A further name enters the certificate with --renew alone.")
    say(f"Fingerprint of the hub (sites ask for it on the phone): {fingerprint(identity)}")
    say("Next: `archipel hub up`, and `archipel hub enrol REQUEST.json` for each site.")


@app.command()
def up(home: HubHome = HUB) -> None:
    """Run the hub until Ctrl-C or SIGTERM; processes that die are started again.

    Logs are in HOME/logs, or on standard output as JSON lines where the settings say `logs = "stdout"`.
    """
    from schemas.processes import die_with_parent
    from server.hub_process import serve

    die_with_parent()
    verify_not_running(home, "hub")
    raise typer.Exit(serve(home, say))


@app.command()
def enrol(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST.json", help="What the site's `init` wrote.", show_default=False)
    ],
    home: HubHome = HUB,
    out: Annotated[
        Path | None, typer.Option(help="File or folder for the kit; default: NAME.kit.json here.", show_default=False)
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="This site is known under other keys, was restored, and was called on the phone."
        ),
    ] = False,
) -> None:
    """Enrol a site and write its kit, to be sent back. Compare the fingerprints on the phone first.

    A site with rotated keys replaces its former entry by itself, since the former key has signed too.
    """
    from archipel.enrol import fingerprint
    from archipel.folders import make_parent
    from archipel.homes import enrol_site, list_sites, read_limited, utc_now
    from archipel.runs import active_runs_of

    # Before the site is enrolled: a kit that cannot be written would leave it half enrolled.
    if out is not None and not out.is_dir():
        make_parent(out)
    before = {site.name: site.identity_public_key for site in list_sites(home)}
    kit = enrol_site(home, read_limited(request), utc_now(), replace=replace)
    path = out or Path()
    path = path / f"{kit.site}.kit.json" if path.is_dir() else path
    path.write_text(kit.to_json(), "utf-8")
    say(
        f"The site {kit.site} is enrolled. Send it {path}: nothing in it is secret, "
        f"and it can be used until {kit.expires:%Y-%m-%d}."
    )
    say(f"Fingerprint of the site: {fingerprint(kit.identity_public_key)}")
    say(f"Fingerprint of the hub:  {fingerprint(kit.hub_public_key)}")
    say("Compare both on the phone with the site; if they differ: `archipel hub revoke`.")
    if before.get(kit.site, kit.identity_public_key) != kit.identity_public_key:
        for run_id in active_runs_of(home, kit.site):
            say(f"Its keys are new, so under the secure sum {run_id} cannot go on with it: `archipel runs stop`.")


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Name of the site.", show_default=False)],
    home: HubHome = HUB,
) -> None:
    """Remove a site: a running hub refuses its next call, and no later run asks it."""
    from archipel.homes import revoke_site

    revoke_site(home, site)
    say(f"The site {site} is revoked.")


@app.command()
def status(home: HubHome = HUB, as_json: AsJson = False) -> None:
    """Show whether the hub runs, its sites (online, last heard), the expiry of its certificates, and its runs."""
    from archipel.hub_status import hub_status, show_hub_status

    found = hub_status(home)
    if as_json:
        print_json(found.to_dict())
        return
    show_hub_status(found)


@app.command()
def health(home: HubHome = HUB, as_json: AsJson = False) -> None:
    """Ask the running hub how it is: processes, listeners, database, disk and certificates.

    For a container's health check or a monitoring system. Exit code 0 where it is healthy, warnings included; 1 where
    it is not, or does not answer.
    """
    from archipel.health import show_health

    raise typer.Exit(show_health(home, "hub", as_json=as_json))


app.command("backup")(cli_keeping.backup_hub)
app.command("restore")(cli_keeping.restore_hub)
