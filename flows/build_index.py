"""A source's documents into an index: a new one, or one that is there."""

from __future__ import annotations

from prefect import flow

from flows.drift import follow_drift
from flows.indexing import index_documents
from flows.parameters import AddParameters, BuildParameters
from flows.sight import progress_shown, show_summary
from flows.spread import ONE_THREAD
from flows.summary import Summary
from index_format.index import Index


@flow(name="build-index", task_runner=ONE_THREAD, persist_result=False, result_serializer="json")
def build_index(parameters: BuildParameters) -> Summary:
    """Make an index from a source, or bring the source's documents into the index that is there."""
    index = Index.at(parameters.index)
    index.refuse_foreign_directory()
    base = index.head()
    with progress_shown(index.address):
        summary = index_documents(index, base, parameters, "add" if base else "build")
    return follow_drift(show_summary(summary), parameters.on_drift)


@flow(name="add-documents", task_runner=ONE_THREAD, persist_result=False, result_serializer="json")
def add_documents(parameters: AddParameters) -> Summary:
    """Add a source's documents to an index that exists; an id that it holds gets the new content."""
    index = Index.at(parameters.index)
    base = index.current()
    with progress_shown(index.address):
        summary = index_documents(index, base, BuildParameters(**dict(parameters)), "add")
    return follow_drift(show_summary(summary), parameters.on_drift)
