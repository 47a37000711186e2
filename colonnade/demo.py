"""The whole road on one machine: docstrings to an index, a server and a few answers."""

from __future__ import annotations

from pathlib import Path

from colonnade import terminal
from colonnade.demo_corpus import fingerprint, write_corpus
from colonnade.running import run_flow
from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder
from index_format.index import Index
from serving.query import SearchQuery
from serving.searcher import Searcher

QUESTIONS = (
    "Which elements of a list come most often?",
    "make a temporary folder that is deleted afterwards",
    "split a string like a shell does",
    "run a command and wait for its result",
)


def run_demo(directory: Path, documents: int, port: int) -> None:
    """Build the demo index unless it is current, then serve it and ask it some questions."""
    from colonnade.server import Place, run_server

    index = Index.at(directory)
    wanted = fingerprint(documents)
    head = index.head()
    if head is not None and head.commit.source_fingerprint == wanted:
        terminal.err.print(f"The index at {directory} is current (version {head.version}): nothing to do.")
    else:
        _build(index, directory, documents, wanted)
    run_server(index, load_encoder(EMBEDDED), Place("127.0.0.1", port), on_start=_ask)


def _build(index: Index, directory: Path, documents: int, wanted: str) -> None:
    from flows.build_index import build_index
    from flows.parameters import BuildParameters
    from tasks.rows import Source

    corpus = directory.parent / "docstrings.parquet"
    terminal.err.print("Collecting docstrings of the standard library and of the installed packages ...")
    count = write_corpus(corpus, documents)
    terminal.err.print(f"{count:,} documents. Starting Prefect and building the index at {index.address} ...")
    source = Source(location=str(corpus))
    parameters = BuildParameters(source=source, index=index.address, source_fingerprint=wanted)
    terminal.print_summary(run_flow(lambda: build_index(parameters)))


def _ask(searcher: Searcher) -> None:
    for question in QUESTIONS:
        answer = searcher.search(SearchQuery(question, k=3))
        terminal.out.print(f"\n[bold]{question}[/bold]  [dim]{answer.encode_ms + answer.search_ms:.0f} ms[/dim]")
        terminal.print_hits(answer.hits)
    terminal.out.print()
