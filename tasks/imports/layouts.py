"""Which package wrote an index: told from the files that only it writes."""

from __future__ import annotations

from pathlib import Path

from index_format.errors import SourceError
from tasks.imports import fast_plaid, plaid
from tasks.imports.peer import PeerIndex
from tasks.rows import Source


def open_peer_index(source: Source) -> PeerIndex:
    """Open an index of ColBERT, RAGatouille, fast-plaid or next-plaid in a folder, every file checked.

    The columns of `source` are where ids, texts and titles are in its own metadata, for those that keep such.
    Raises SourceError when it is none of these, or not whole.
    """
    folder = Path(source.location)
    if (folder / plaid.CENTROIDS).is_file():
        peer = plaid.open_plaid(folder)
    elif (folder / fast_plaid.CENTROIDS).is_file():
        peer = fast_plaid.open_fast_plaid(folder, (source.id_column, source.text_column, source.title_column))
    else:
        raise SourceError(
            f"{folder}: expected a folder with an index of ColBERT or RAGatouille ({plaid.CENTROIDS}) or of fast-plaid "
            f"or next-plaid ({fast_plaid.CENTROIDS}), found neither file."
        )
    peer.check()
    return peer
