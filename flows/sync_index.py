"""An index made to hold what a source holds: adds, changes and deletes exactly the difference, by one commit."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.drift import follow_drift
from flows.indexing import index_documents
from flows.parameters import BuildParameters, SyncParameters
from flows.sight import busy, progress_shown, show_summary, stood_aside
from flows.spread import ONE_THREAD
from flows.summary import Summary
from flows.turns import turn
from index_format.errors import SourceError
from index_format.index import Index
from index_format.manifest import Manifest
from tasks.stage_documents import StagedDocuments


@flow(name="sync-index", task_runner=ONE_THREAD, persist_result=False, result_serializer="json")
def sync_index(parameters: SyncParameters) -> Summary:
    """Make an index mirror a source. Documents that the source no longer has are deleted, up to a share of them.

    While another sync of the index is at work it does nothing: on a schedule, the next one is not far.
    """
    index = Index.at(parameters.index)
    version = index.current().version
    with turn("sync", index.address) as alone:
        if not alone:
            why = busy("sync", index.address)
            return stood_aside(show_summary(Summary(index.address, version, published=False, warnings=[why])), why)
        summary = _mirror(index, parameters)
    return follow_drift(show_summary(summary), parameters.on_drift)


def _mirror(index: Index, parameters: SyncParameters) -> Summary:
    base = index.current()
    held_back: list[str] = []

    def choose_removed(staged: StagedDocuments, _base: Manifest | None) -> list[str]:
        if staged.unnamed:
            held_back.extend(staged.missing)  # a row that lost its id may be any of them
            return []
        refuse_emptied_source(staged, base, parameters)
        return staged.missing

    settings = BuildParameters(source=parameters.source, index=parameters.index, encoder=parameters.encoder)
    with progress_shown(index.address):
        summary = index_documents(index, base, settings, "sync", choose_removed)
    if held_back:
        summary = replace(summary, held_back=len(held_back), warnings=[_held_back(parameters, len(held_back))])
    return summary


def _held_back(parameters: SyncParameters, count: int) -> str:
    return (
        f"{parameters.index}: {count} documents are not in {parameters.source.location} any more and were not "
        "deleted, because rows without an id were set aside that may have been theirs. Mend those rows and sync again."
    )


def refuse_emptied_source(staged: StagedDocuments, base: Manifest, parameters: SyncParameters) -> None:
    """Raise SourceError when a larger share of the documents is missing than may go at once."""
    share = len(staged.missing) / max(1, base.documents)
    if share > parameters.most_deleted:
        raise SourceError(
            f"{parameters.source.location}: {len(staged.missing)} of the {base.documents} documents of "
            f"{parameters.index} are not in it any more, {share:.0%}; at most {parameters.most_deleted:.0%} are "
            f"deleted at once, in case the source is not whole. Nothing was changed. If they are to go, allow it "
            f"with --most-deleted {min(1.0, round(share + 0.005, 2)):g} (most_deleted in the flow's parameters)."
        )
