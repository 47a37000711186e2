"""The only place that spells object keys (SPEC §2).

Keys are relative to the root of an index and use `/`. A name is used once and never again.
"""

from __future__ import annotations

import re
import secrets
import time

MANIFESTS = "manifests/"
STAGING = "staging/"
RECEIPTS = "receipts/"
CODECS = "codecs/"

VERSION_DIGITS = 20
_TIME_DIGITS = 12
_ID = r"[0-9a-f]{32}"
_ANY_ID = re.compile(_ID)
_MANIFEST = re.compile(rf"manifests/([0-9]{{{VERSION_DIGITS}}})\.json")
_RECEIPT = re.compile(r"receipts/[0-9a-f]{64}\.json")
_STAGED = re.compile(rf"staging/{_ID}/[0-9]{{6,}}\.(parquet|json)")
_DATA = re.compile(
    rf"codecs/{_ID}\.npz|codebooks/{_ID}\.npz"
    rf"|segments/{_ID}/(documents\.parquet|passages\.parquet|codes\.npz|centroids-{_ID}\.npz)"
    rf"|deletions/{_ID}/{_ID}\.npz|reports/{_ID}/rejected\.parquet"
)


def new_id() -> str:
    """A fresh id: the time in milliseconds in 12 hexadecimal digits, then 20 random ones."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def drawn_at(key: str) -> int:
    """When the name of an object was drawn, in milliseconds since 1970 by the clock of whoever drew it.

    It is the time in the last id of the key, or 0 where there is no id. An id itself is a key too.
    """
    ids = _ANY_ID.findall(key)
    return int(ids[-1][:_TIME_DIGITS], 16) if ids else 0


def is_id(text: str) -> bool:
    """Whether `text` is spelled as an id is."""
    return re.fullmatch(_ID, text) is not None


def attempt_of(key: str) -> str:
    """The id that ends the key of a centroids file or a deletion vector."""
    return key.removesuffix(".npz")[-32:]


def manifest(version: int) -> str:
    """Key of the manifest of one version, zero-padded so that keys sort as numbers do."""
    return f"{MANIFESTS}{version:0{VERSION_DIGITS}d}.json"


def manifest_version(key: str) -> int | None:
    """The version a manifest key names, or None for any other key."""
    match = _MANIFEST.fullmatch(key)
    return int(match.group(1)) if match else None


def codec(codec_id: str) -> str:
    return f"{CODECS}{codec_id}.npz"


def codebook(codebook_id: str) -> str:
    return f"codebooks/{codebook_id}.npz"


def documents(segment_id: str) -> str:
    return f"segments/{segment_id}/documents.parquet"


def passages(segment_id: str) -> str:
    return f"segments/{segment_id}/passages.parquet"


def codes(segment_id: str) -> str:
    return f"segments/{segment_id}/codes.npz"


def centroids(segment_id: str, attempt_id: str) -> str:
    return f"segments/{segment_id}/centroids-{attempt_id}.npz"


def deletions(segment_id: str, attempt_id: str) -> str:
    return f"deletions/{segment_id}/{attempt_id}.npz"


def rejected(report_id: str) -> str:
    return f"reports/{report_id}/rejected.parquet"


def staged_shard(run_id: str, number: int) -> str:
    return f"{STAGING}{run_id}/{number:06d}.parquet"


def work_list(run_id: str, number: int) -> str:
    """Key of the shards that a run gives to a worker elsewhere."""
    return f"{STAGING}{run_id}/{number:06d}.json"


def run_of(staged: str) -> str:
    """The run that staged an object."""
    return staged.split("/")[1]


def receipt(work_key: str) -> str:
    """Key of the receipt of one finished shard; `work_key` is a hash of all that its result depends on."""
    return f"{RECEIPTS}{work_key}.json"


def is_receipt(key: str) -> bool:
    return _RECEIPT.fullmatch(key) is not None


def is_staged(key: str) -> bool:
    """Whether it is the key of staged documents, or of a list of them."""
    return _STAGED.fullmatch(key) is not None


def is_data_key(key: str) -> bool:
    """Whether a manifest may name this key: guards readers against path traversal."""
    return _DATA.fullmatch(key) is not None
