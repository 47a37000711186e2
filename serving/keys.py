"""API keys: who may do what. A file holds their hashes, and is read again when it changes.

A key is 256 random bits, so that one round of SHA-256 keeps it: there is nothing to guess.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from index_format.errors import NOT_DECODED, InputError

KeyScope = Literal["search", "write", "admin"]
KEY_SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
_PREFIX = "colonnade_"
_MOST_DAYS = 36_500
_LOOK_SECONDS = 1.0  # how often the file is looked at, at most
_log = logging.getLogger("colonnade.keys")


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as the file holds it. created_at, expires_at: seconds since 1970."""

    id: str
    name: str
    sha256: str
    scopes: list[KeyScope]
    created_at: int
    tenant: str | None = None
    expires_at: int | None = None

    def is_expired(self) -> bool:
        return self.expires_at is not None and time.time() >= self.expires_at

    def describe(self) -> dict[str, object]:
        """For people; without the hash."""
        told = {name: getattr(self, name) for name in ("id", "name", "tenant", "created_at", "expires_at")}
        return {**told, "scopes": ", ".join(self.scopes)}


def make_key(name: str, scopes: Iterable[str], tenant: str | None = None, days: float | None = None) -> tuple[Key, str]:
    """A new key's record, and the key itself, which nobody can tell again. Raises InputError."""
    given = set(scopes)
    wanted = [scope for scope in KEY_SCOPES if scope in given]
    if not wanted or given - set(wanted):
        raise InputError(f"--scope: name at least one of {', '.join(KEY_SCOPES)}, got {', '.join(sorted(given))!r}.")
    if tenant is not None and "admin" in wanted:
        raise InputError("--tenant: a key of one tenant may search and write, and not admin: that shows all tenants.")
    if days is not None and not 0 <= days <= _MOST_DAYS:  # NaN is neither
        raise InputError(f"--days: expected at most {_MOST_DAYS:,} and no less than 0, got {days:g}.")
    secret, now = _PREFIX + secrets.token_urlsafe(32), int(time.time())
    expires_at = None if days is None else now + int(days * 86_400)
    key = Key(
        id=uuid.uuid4().hex[:8],
        name=name,
        sha256=_digest(secret),
        scopes=wanted,
        created_at=now,
        tenant=tenant,
        expires_at=expires_at,
    )
    return key, secret


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. Raises InputError when it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Key])
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file. Make a key with: colonnade keys make {path}") from None
    except (OSError, *NOT_DECODED) as error:
        raise InputError(f"{path}: not a file of keys ({error}). Restore it, or make another.") from error


def write_keys(path: Path, keys: list[Key]) -> None:
    """Replace a file of keys whole, readable by its owner alone; one that is there keeps its owner and its mode."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with contextlib.suppress(FileNotFoundError):
            _take_after(path.stat(), file.fileno())
        file.write(msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _take_after(there: os.stat_result, descriptor: int) -> None:
    """Give an open file the owner and the mode of another. Who may not give the owner leaves it: it is their own."""
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))


def change_keys(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Replace the keys of a file by what `change` makes of them, none where there is no file yet.

    One change at a time, on this machine: a lock is held on a file beside it, which the system lets go of with the
    process. Raises InputError when the file is not one of keys, and what `change` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)) as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        write_keys(path, change(read_keys(path) if path.exists() else []))


class KeyRing:
    """The keys of a file, as it is now. A change that cannot be read is logged, and the keys before it stay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._state()  # before the keys: what changes between the two is seen at the next look
        self._keys = read_keys(path)
        self._looked_at = time.monotonic()

    def find(self, secret: str) -> Key | None:
        """The key with that secret, or None; in a time that tells nothing of any key."""
        self._follow()
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or found.is_expired() else found

    def _follow(self) -> None:
        with self._lock:
            if time.monotonic() < self._looked_at + _LOOK_SECONDS:
                return
            self._looked_at = time.monotonic()
            state = self._state()
            if state == self._seen:
                return
            self._seen = state
            try:
                self._keys = read_keys(self._path)
                _log.info("keys read again: %d", len(self._keys))
            except InputError:
                _log.error("the file of keys changed and cannot be read; the keys before stay")

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
