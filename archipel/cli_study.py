"""`archipel study`: is a study file right, and what would it make leave a site?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archipel.cli_common import AsJson, StudyFile, command_group, print_json, say
from schemas.errors import FaultsError

__all__ = ["app"]

app = command_group("Check a study file, list features, and show what the study would make leave a site.")


@app.command()
def check(study: StudyFile, as_json: AsJson = False) -> None:
    """Name every fault of a study and its dictionary at once, each with its line.

    Exit code 0 where there is none, 1 where there are some.
    """
    from archipel.features import features_faults
    from archipel.studies import read_study, why_simulate_alone

    try:
        loaded, dictionary = read_study(study)
        unlisted = features_faults(loaded, dictionary, study)
        if unlisted:
            raise FaultsError(str(study), unlisted)
    except FaultsError as error:
        if as_json:
            print_json({"sound": False, "faults": [vars(fault) for fault in error.faults]})
            raise typer.Exit(1) from None
        raise
    limits = why_simulate_alone(loaded, dictionary)
    if as_json:
        print_json({"sound": True, "faults": [], "simulate_alone_because": [str(limit) for limit in limits]})
        return
    say(f"{study}: the study {loaded.name} is sound.")
    for limit in limits:
        say(f"  It runs in `archipel simulate` alone: {limit}")


@app.command()
def plan(
    study: StudyFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan itself, for a program.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the plan (its canonical bytes) to this file.")] = None,
) -> None:
    """Print the data-use card: columns read, arrays that leave a site and how often, floors, purpose, plan hash."""
    from archipel.folders import make_parent
    from archipel.studies import compile_study
    from schemas.card import data_use_card

    compiled = compile_study(study)
    if out is not None:
        make_parent(out).write_bytes(compiled.content)
    if as_json:
        print_json({"plan_hash": compiled.hash, "plan": compiled.model_dump(mode="json")})
        return
    say(data_use_card(compiled))
    if out is not None:
        say(f"\nThe plan is in {out}.")


@app.command()
def features(
    study: StudyFile,
    sites: Annotated[
        Path | None, typer.Option(metavar="DIR", help="One folder of tables per site; their columns are taken.")
    ] = None,
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="A table LAYER.csv or LAYER.parquet; may be given again."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write a list anew that is there already.")] = False,
) -> None:
    """List the features of the dictionary's wide layers from tables, in the files that the dictionary names.

    Only headers are read. A plan needs these files before it can be made; the sites are asked for exactly the
    features that they list.
    """
    from archipel.features import list_features, tables_of, tables_of_sites
    from archipel.studies import read_study

    loaded, dictionary = read_study(study)
    if (sites is None) == (from_ is None):
        raise typer.BadParameter("give either --sites DIR or --from FILE")
    tables = tables_of_sites(dictionary, sites) if sites is not None else tables_of(dictionary, from_ or ())
    listed = list_features(dictionary, (study.parent / loaded.dictionary).parent, tables, replace=replace)
    for one in listed:
        say(str(one))
    for layer in dictionary.layers:
        if layer.name not in {one.layer for one in listed}:
            say(f"{layer.name}: no table of this layer was given")
    if not dictionary.layers:
        say(f"The dictionary {dictionary.name} has no [[layers]], so there is nothing to list.")
