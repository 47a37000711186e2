"""Documents out of an index, as one new version; nothing that is written is touched."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DeleteParameters
from flows.sight import show_summary
from flows.summary import Summary
from index_format.change import Origin
from index_format.index import Index
from tasks.publish import delete_documents_task, delete_matching_task


@flow(name="delete-documents", persist_result=False, result_serializer="json")
def delete_documents(parameters: DeleteParameters) -> Summary:
    """Delete documents by id, or those that match a filter. Ids that the index does not hold count as unchanged."""
    index, matching = Index.at(parameters.index), parameters.matching
    ids = sorted(set(parameters.ids))
    if matching is None:
        manifest = delete_documents_task(index.address, ids, Origin("delete"))
    else:
        manifest = delete_matching_task(index.address, matching, Origin("delete"))
    deleted = manifest.commit.deleted if manifest else 0
    seen = deleted if matching else len(ids)
    summary = Summary(
        index=index.address,
        version=(manifest or index.current()).version,
        published=manifest is not None,
        seen=seen,
        deleted=deleted,
        unchanged=seen - deleted,
    )
    return show_summary(summary)
