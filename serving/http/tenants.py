"""One tenant's key sees that tenant's documents and no others: a filter that the server adds, and no request widens."""

from __future__ import annotations

from fastapi import Request

from index_format.filters import Comparison, Filter
from serving.http.parts import Parts


def visible(parts: Parts, request: Request) -> Filter | None:
    """What whoever sent a request may see of an index; None is everything.

    Every route that tells of documents asks this. A document without a value in the column is no tenant's, and an
    index without the column is none of theirs: the search is refused.
    """
    key = request.state.key
    if key is None or key.tenant is None:
        return None
    return Comparison(op="==", column=parts.settings.tenant_column, value=key.tenant)
