"""The on-disk cache of native code: private to the user, addressed by content, checked before use."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from graphc import config
from graphc.errors import ArtifactError

_MAGIC = b"graphc cache 1\n"
_DIGEST = hashlib.sha256().digest_size
_FRESH = 3600
"""Seconds within which another use of an entry needn't be noted."""
_HINT = "remove it, point GRAPHC_CACHE_DIR elsewhere, or compile with cache=False"


class Cache:
    """Entries of bytes by a key text, in the subfolder "native" of `folder`, made with mode 0700 at first use.

    An entry is written to a temporary file and renamed into place, so a reader sees all of it or nothing; equal keys
    have equal contents, so it doesn't matter who wins. An entry that is damaged, or isn't the user's own regular file,
    is removed and counts as missing. Raises an ArtifactError if the folder isn't the user's alone, or can't be used.
    Threads and processes may share a folder. Where entries take more than `limit` bytes (default: as the environment
    says) those that weren't used for longest are removed, at the latest when a sixteenth more has been written.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder / "native"
        self.limit = config.cache_bytes() if limit is None else limit
        self._unchecked: int | None = None  # bytes written since entries were counted; None: they never were

    def get(self, key: str) -> bytes | None:
        """The bytes stored under `key`, or None."""
        name, digest = _name(key)
        folder = self._open_folder()
        try:
            # Relative to the folder's descriptor: what was checked is what is read, whatever happens to the path.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError:  # a symbolic link, or no right to read it
            self._remove(name, folder)
            return None
        else:
            with open(file, "rb") as stream:
                status = os.fstat(file)
                data = _payload(stream.read(), digest) if _is_private(status) else None
                if data is not None and time.time() - status.st_mtime > _FRESH:
                    os.utime(file)  # the time of the last use decides what is removed
            if data is None:
                self._remove(name, folder)
            return data
        finally:
            os.close(folder)

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        name, digest = _name(key)
        os.close(self._open_folder())
        try:
            file, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")  # made with mode 0600
            try:
                with open(file, "wb") as stream:
                    stream.write(_MAGIC + digest + hashlib.sha256(data).digest() + data)
                os.replace(temporary, self.folder / name)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise ArtifactError(f"can't write to the cache {self.folder}", seen=str(error), hint=_HINT) from error
        if self._unchecked is None or self._unchecked + len(data) > self.limit // 16:
            self._trim()
            self._unchecked = 0
        else:
            self._unchecked += len(data)

    def _trim(self) -> None:
        """Removes what wasn't used for longest, down to three quarters of the limit, where there is more than the limit."""
        entries = []
        with os.scandir(self.folder) as found:
            for entry in found:
                with suppress(FileNotFoundError):  # another process removes, too
                    status = entry.stat(follow_symlinks=False)
                    entries.append((status.st_mtime, status.st_size, entry.name))
        total = sum(size for _, size, _ in entries)
        folder = self._open_folder()
        try:
            for _, size, name in sorted(entries) if total > self.limit else ():
                if total <= self.limit * 3 // 4:
                    break
                self._remove(name, folder)
                total -= size
        finally:
            os.close(folder)

    def _open_folder(self) -> int:
        """A descriptor of the folder, which is made if it is missing; refused unless it is the user's alone."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"can't use the cache {self.folder}", seen=str(error), hint=_HINT) from error
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(descriptor)
            raise ArtifactError(
                f"the cache {self.folder} isn't private",
                seen=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}",
                expected=f"owner {os.geteuid()}, mode 700",
                hint=_HINT,
            )
        return descriptor

    def _remove(self, name: str, folder: int) -> None:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass  # another process has found it too
        except OSError as error:
            raise ArtifactError(
                f"the cache entry {self.folder / name} can't be removed", seen=str(error), hint=_HINT
            ) from error


def cached_code(key: str, cache: Cache | None) -> bytes | None:
    """The object code of the kernel with that key, if it was compiled before."""
    return None if cache is None else cache.get(f"kernel {key}")


def _name(key: str) -> tuple[str, bytes]:
    digest = hashlib.sha256(key.encode())
    return digest.hexdigest(), digest.digest()


def _is_private(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _payload(content: bytes, key_digest: bytes) -> bytes | None:
    """The data of an entry, or None unless the entry is whole and belongs to the key."""
    start = len(_MAGIC)
    data = content[start + 2 * _DIGEST :]
    header = _MAGIC + key_digest + hashlib.sha256(data).digest()
    return data if content[: start + 2 * _DIGEST] == header else None
