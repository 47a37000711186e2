"""The command that serves an index over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from colonnade.options import DeviceOption, Encoder, IndexArgument


def serve(
    index: IndexArgument,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one")] = 8080,
    encoder: Encoder = None,
    device: DeviceOption = "auto",
    keys: Annotated[Path | None, typer.Option(help="File of API keys; who has none of them is refused")] = None,
    insecure: Annotated[bool, typer.Option(help="Allow others than this machine to ask, without any key")] = False,
    tenant_column: Annotated[
        str | None, typer.Option(help="Metadata column that tells whose a document is, for keys of one tenant")
    ] = None,
    writable: Annotated[bool, typer.Option(help="Let documents be added and deleted over HTTP")] = False,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file of the certificate: serve HTTPS")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key")] = None,
    deadline: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that a request may take")] = 10.0,
    queue: Annotated[int, typer.Option(min=1, max=10_000, help="Queries that may wait; others are refused")] = 256,
    shadow: Annotated[float, typer.Option(min=0, max=1, help="Share of queries whose recall is checked after")] = 0.0,
) -> None:
    """Serve an index over HTTP, with a search page; follows new versions while it runs.

    In Python: serving.http.app.make_app(...) is the server, colonnade.client.Client asks it
    """
    from colonnade.server import Place, run_server
    from encoding.encoder import load_encoder_of
    from index_format.index import Index
    from serving.device import choose_device, choose_encoder_device
    from serving.http.parts import Settings

    settings = Settings(
        deadline_ms=int(1000 * deadline), queue_limit=queue, shadow_share=shadow, tenant_column=tenant_column
    )
    place = Place(host, port, keys, insecure, tls_certificate, tls_key, settings)
    place.refuse_unsafe()
    chosen = choose_device(device)
    encodes_on = choose_encoder_device(device)
    at = Index.at(index)
    writer = None
    if writable:
        from colonnade.writer import IndexWriter  # it brings Prefect's tasks, which a server that reads goes without

        writer = IndexWriter(at.address, encoder, encodes_on)
    loaded = load_encoder_of(at.current().encoder, encoder, encodes_on)
    run_server(at, loaded, place, device=chosen, writer=writer)
