"""The on-disk cache of native code: private to the user, addressed by content, checked before use."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from graphc.errors import ArtifactError

_MAGIC = b"graphc cache 1\n"
_DIGEST = hashlib.sha256().digest_size
_HINT = "remove it, point GRAPHC_CACHE_DIR elsewhere, or compile with cache=False"


class Cache:
    """Entries of bytes by a key text, in the subfolder "native" of `folder`, made with mode 0700 at first use.

    An entry is written to a temporary file and renamed into place, so a reader sees all of it or nothing; equal keys
    have equal contents, so it doesn't matter who wins. An entry that is damaged, or isn't the user's own regular file,
    is removed and counts as missing. Raises an ArtifactError if the folder isn't the user's alone, or can't be used.
    Threads and processes may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "native"

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
                data = _payload(stream.read(), digest) if _is_private(os.fstat(file)) else None
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
                f"the cache entry {self.folder / name} is damaged and can't be removed", seen=str(error), hint=_HINT
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
