"""Documents out of an index, as one new version; nothing that is written is touched."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DeleteParameters
from flows.sight import show_summary
from flows.summary import Summary
from index_format.change import Origin
from index_format.index import Index
from tasks.publish import delete_documents_task


@flow(name="delete-documents")
def delete_documents(parameters: DeleteParameters) -> Summary:
    """Delete documents by id. Ids that the index does not hold are counted as unchanged."""
    index = Index.at(parameters.index)
    ids = sorted(set(parameters.ids))
    manifest = delete_documents_task(index.address, ids, Origin("delete"))
    deleted = manifest.commit.deleted if manifest else 0
    summary = Summary(
        index=index.address,
        version=(manifest or index.current()).version,
        published=manifest is not None,
        seen=len(ids),
        deleted=deleted,
        unchanged=len(ids) - deleted,
    )
    return show_summary(summary)
