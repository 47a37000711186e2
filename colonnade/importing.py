"""Indexes of ColBERT, RAGatouille, fast-plaid and next-plaid made ours, without encoding a text again."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from encoding.checkpoint import Checkpoint, open_checkpoint
from encoding.encoder import Encoder, load_encoder
from flows.summary import Stopwatch, Summary
from index_format import change, keys
from index_format.change import Addition, Origin
from index_format.codec import Codec
from index_format.commit import commit
from index_format.doctor import refuse_unsafe_store
from index_format.errors import InputError
from index_format.index import Index
from index_format.manifest import LEAST_PASSAGE_TOKENS, ChunkingRecord, Manifest, SegmentRecord
from index_format.reports import write_report
from index_format.segment import read_codec, write_codec
from tasks import progress
from tasks.assign_centroids import assign_centroids
from tasks.imports.documents import Gathered, gather_documents
from tasks.imports.fit import SAMPLE, Fit, measure_fit, refuse_misfit
from tasks.imports.layouts import open_peer_index
from tasks.imports.passages import passages_of
from tasks.imports.peer import PeerIndex
from tasks.imports.segments import sampled_vectors, write_segments
from tasks.rows import Source
from tasks.train_codebook import train_codebook

_SAMPLE = 256  # passages, for the codec's mean; some of them are compared with the encoder's


def import_index(
    source: Source, index: str, *, texts: str | None = None, encoder: str | None = None, bits: int = 4
) -> Summary:
    """Make a new index at `index` of the one in the folder that `source` names, from its vectors.

    texts: a file with an id and a text for each passage in order, for an index that does not hold them. The columns of
    `source` are those of `texts`, or of the metadata that fast-plaid and next-plaid keep. encoder: what made the
    vectors; by default the one that the source names. Raises InputError, before anything is published, when the source
    is not whole, does not belong to its texts, or was made by another encoder, and when there is an index already.
    """
    place, watch = Index.at(index), Stopwatch()
    place.refuse_foreign_directory()
    _refuse_existing(place.head(), index)
    with tempfile.TemporaryDirectory() as folder:
        with watch.stage("load"):
            peer = open_peer_index(source)
            loaded = load_encoder(_checkpoint(peer, encoder).name)
            passages = passages_of(peer, source.model_copy(update={"location": texts}) if texts else None)
            sample = np.unique(np.linspace(0, len(peer.lengths) - 1, _SAMPLE).astype(int)).tolist()
            gathered = gather_documents(passages, peer.lengths, Path(folder), source.location, sample)
            fit = _fit(peer, gathered, loaded)
            refuse_unsafe_store(place.store)
        return _imported(place, peer, gathered, loaded, bits, fit, watch)


def _imported(
    place: Index, peer: PeerIndex, gathered: Gathered, encoder: Encoder, bits: int, fit: Fit, watch: Stopwatch
) -> Summary:
    """Write and publish what was gathered."""
    record, address = encoder.record, place.address
    with watch.stage("import"):
        sample = np.concatenate(sampled_vectors(peer, sorted(gathered.sample)))
        codec = write_codec(place.store, Codec.of(sample, bits))
        segments = write_segments(place, peer, gathered, read_codec(place.files, codec, record.dim), record)
    with watch.stage("codebook"):
        codebook = train_codebook(address, segments, codec, record.dim)
    with watch.stage("centroids"):
        progress.report("centroids", total=sum(one.tokens for one in segments))
        records = [assign_centroids(one, address, codebook, codec, record.dim) for one in segments]
    rejected = map(asdict, gathered.rejected)
    report = write_report(place.store, keys.new_id(), rejected) if gathered.rejected else None
    origin = Origin("import", rejected=len(gathered.rejected), rejected_file=report)
    addition = Addition(record, codec, _chunking(peer, encoder.checkpoint), codebook, records)
    with watch.stage("publish"):
        manifest = commit(place.store, lambda base: _first(place, base, addition, origin))
    assert manifest is not None
    return _summary(place, manifest, peer, records, fit, watch)


def _first(place: Index, base: Manifest | None, addition: Addition, origin: Origin) -> Manifest | None:
    _refuse_existing(base, place.address)
    return change.add_segments(place, None, addition, origin)


def _refuse_existing(base: Manifest | None, where: str) -> None:
    if base is not None:
        raise InputError(f"{where}: there is an index already, at version {base.version}. Import into a new place.")


def _checkpoint(peer: PeerIndex, encoder: str | None) -> Checkpoint:
    """The encoder that made the vectors, as far as a name and a number of dimensions can tell."""
    name = encoder or peer.checkpoint
    if name is None:
        raise InputError(
            f"{peer.folder}: an index of {peer.layout} does not say what encoded it, and queries need the same. "
            "Name it: --encoder."
        )
    try:
        checkpoint = open_checkpoint(name)
    except InputError as error:
        if encoder is not None:
            raise
        raise InputError(f"{error} The index names it as its encoder; say where it is now: --encoder.") from error
    if checkpoint.dim != peer.residuals.dim:
        raise InputError(
            f"{peer.folder}: its vectors have {peer.residuals.dim} dimensions, those of {name} have {checkpoint.dim}. "
            "Name the encoder that made them: --encoder."
        )
    return checkpoint


def _fit(peer: PeerIndex, gathered: Gathered, encoder: Encoder) -> Fit:
    chosen = sorted(gathered.sample)[:: max(1, len(gathered.sample) // SAMPLE)]
    vectors = sampled_vectors(peer, chosen)
    fit = measure_fit(encoder, vectors, [gathered.sample[one] for one in chosen], peer.pool_factor)
    refuse_misfit(fit, encoder, str(peer.folder))
    return fit


def _chunking(peer: PeerIndex, checkpoint: Checkpoint) -> ChunkingRecord:
    """How documents that come later are cut and pooled: as the source's were, where it says that."""
    said = peer.passage_tokens or 0
    known = LEAST_PASSAGE_TOKENS <= said <= checkpoint.max_tokens
    passage_tokens = said if known else checkpoint.max_tokens
    return ChunkingRecord(passage_tokens=passage_tokens, overlap_tokens=0, pool_factor=peer.pool_factor)


def _summary(
    place: Index, manifest: Manifest, peer: PeerIndex, records: list[SegmentRecord], fit: Fit, watch: Stopwatch
) -> Summary:
    warnings = []
    if fit.same_counts < 1:
        warnings.append(
            f"{1 - fit.same_counts:.0%} of the passages looked at have another number of vectors than this encoder "
            "makes: they were pooled, cut off or encoded with other settings, which the source does not tell. "
            "Searches are right; explain cannot place such vectors in the text. `colonnade reindex` makes all alike."
        )
    elif peer.pool_factor > 1:
        warnings.append(
            "Its vectors are pooled, and stand in another order than this encoder would give them. Searches are right; "
            "explain may name other words of a passage than those that matched. `colonnade reindex` makes all alike."
        )
    return Summary(
        index=place.address,
        version=manifest.version,
        published=True,
        seen=manifest.commit.added + manifest.commit.rejected,
        added=manifest.commit.added,
        rejected=manifest.commit.rejected,
        rejected_file=manifest.commit.rejected_file,
        passages=sum(one.passages for one in records),
        tokens=sum(one.tokens for one in records),
        bytes=sum(file.size for one in records for file in one.files()),
        seconds=watch.seconds,
        warnings=warnings,
    )
