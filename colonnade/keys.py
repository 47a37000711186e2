"""The commands for API keys: a file of their hashes, which a running server follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from colonnade.options import Json

app = typer.Typer(help="API keys of a server: make, list and revoke; a running server follows the file.")

KeysFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file that 'serve --keys' names")]


@app.command()
def make(
    file: KeysFile,
    name: Annotated[str, typer.Option(help="Whose key it is, for people")] = "",
    scope: Annotated[
        list[str], typer.Option(help="What it may do: search, write or admin; give the option again for more")
    ] = ["search"],  # noqa: B006  # typer copies it
    tenant: Annotated[str | None, typer.Option(help="The one tenant whose documents it sees, and may delete")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="After how many days it ends", show_default="never")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once: the file holds only its hash.

    In Python: serving.keys.make_key(NAME, SCOPES) and change_keys(FILE, CHANGE)
    """
    from colonnade import terminal
    from serving.keys import change_keys, make_key

    key, secret = make_key(name, scope, tenant, days)
    change_keys(file, lambda keys: [*keys, key])
    if as_json:
        terminal.print_json({"id": key.id, "key": secret, "scopes": key.scopes, "tenant": key.tenant})
    else:
        terminal.out.print(secret, highlight=False, soft_wrap=True)


@app.command("list")
def list_keys(file: KeysFile, as_json: Json = False) -> None:
    """List the keys of a file; none of them can be told.

    In Python: serving.keys.read_keys(FILE)
    """
    from colonnade import terminal
    from serving.keys import read_keys

    terminal.print_rows([key.describe() for key in read_keys(file)], as_json)


@app.command()
def revoke(
    file: KeysFile, key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that 'keys list' shows")]
) -> None:
    """Revoke a key: within a second no server that follows the file takes it.

    In Python: serving.keys.change_keys(FILE, CHANGE), which leaves out those that go
    """
    from index_format.errors import InputError
    from serving.keys import Key, change_keys, read_keys

    def without(keys: list[Key]) -> list[Key]:
        kept = [key for key in keys if key.id != key_id]
        if len(kept) == len(keys):
            raise InputError(f"{file} has no key {key_id}; it has {', '.join(key.id for key in keys)}.")
        return kept

    read_keys(file)  # a file that is not there is told, and none is made
    change_keys(file, without)
