"""A folder on another file system: S3, Google Cloud Storage, a model hub, ssh, a mounted disk.

Opens, reads and writes files there; knows nothing of caches. What a URL says of passwords and keys goes to the file system
and into no message.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import fsspec

from stages.errors import CacheError, DuetError
from stages.files import TEMPORARY_SUFFIX, make_own_folder, open_new, sync_folder
from stages.masking import HIDDEN, masked, secrets_of

PIECE_BYTES = 4 * 2**20
# Where files lie in folders, which must be made. Elsewhere a folder is the beginning of a name, and what fsspec would make is
# a bucket: one that was mistyped, and perhaps one that anybody may read.
WITH_FOLDERS = {
    "file",
    "local",
    "memory",
    "sftp",
    "ssh",
    "ftp",
    "smb",
    "hdfs",
    "arrow_hdfs",
    "webhdfs",
    "webdav",
    "dbfs",
}
ON_THIS_MACHINE = {"file", "local"}
WITH_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}
# By name, because each file system brings its own.
UNREACHABLE = {
    "EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ReadTimeoutError", "ProxyConnectionError",
    "ClientConnectorError", "ClientConnectorDNSError", "ServerDisconnectedError", "ServerTimeoutError", "gaierror",
    "ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "TimeoutError", "SSLError", "NewConnectionError",
}  # fmt: skip
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound"}
STAYS = "What had arrived stays there; without a manifest it is not taken for a cache."


class Remote:
    """A folder on any fsspec file system. Every failure there becomes a CacheError that names the URL, without its secrets."""

    def __init__(self, url: str) -> None:
        url = url.rstrip("/")
        self.url = masked(url)
        self._secrets = secrets_of(url)
        if url.partition("://")[0] in WITH_BUCKETS and HIDDEN + "@" in self.url and ":" in url.partition("://")[2]:
            raise CacheError(
                f"{self.url} holds a key, and such a URL names a bucket only.",
                "Keys in URLs end up in histories and in lists of processes, so nothing was opened.",
                "Give the key as the file system's own settings do, for instance AWS_PROFILE or AWS_ACCESS_KEY_ID.",
            )
        with self._named():
            self.files, self.root = fsspec.core.url_to_fs(url)

    @property
    def protocols(self) -> set[str]:
        """The names that the file system goes by."""
        protocol = self.files.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    def refuse_absent(self) -> None:
        """Raise CacheError if the URL names a bucket that is not there, or that may not be read."""
        if not self.protocols & WITH_BUCKETS:
            return
        bucket = self.root.partition("/")[0]
        with self._named():
            try:
                self.files.ls(bucket, refresh=True)
            except FileNotFoundError as error:
                raise CacheError(
                    f"{self.url}: there is no bucket {bucket}.",
                    "A bucket is never made here: a mistyped one would be somebody's new public place.",
                    "Check the URL, or make the bucket first.",
                ) from error

    def size(self, name: str) -> int | None:
        """Bytes of the file, or None if there is none."""
        with self._named():
            self.files.invalidate_cache()
            try:
                found = self.files.info(self._path(name))
            except FileNotFoundError as error:
                # Over HTTP a server out of reach is told of as a missing file.
                if _kinds(error) & UNREACHABLE:
                    raise self._failure(error) from _without(error, self._secrets)
                return None
            if found["type"] != "file":
                raise CacheError(f"{self.url}/{name} is not a file.", "A logit cache holds plain files only.")
            return int(found["size"])

    def pieces(self, name: str) -> Iterator[bytes]:
        """The file's bytes, a few MB at a time."""
        with self._named(), self.files.open(self._path(name), "rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def bounded(self, name: str, most: int) -> bytes:
        """The whole file. Raises CacheError if it has more than `most` bytes, whatever its length is said to be."""
        content = bytearray()
        for piece in self.pieces(name):
            content += piece
            if len(content) > most:
                raise CacheError(f"{self.url}/{name} has more than {most:,} bytes.", f"That is no {name}.")
        return bytes(content)

    def sha256(self, name: str) -> str:
        """SHA-256 of what lies there, read back."""
        digest = hashlib.sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def put(self, source: BinaryIO | bytes, name: str) -> None:
        """Write these bytes, or the file that is open, there; on a disk of this machine through no link, and whole or not at all.

        Whatever has come to have the open file's name since is not what is written.
        """
        path = self._path(name)
        with self._named():
            if self.protocols & ON_THIS_MACHINE:
                _put_here(source, Path(path))
                return
            if self.protocols & WITH_FOLDERS:
                self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(source, bytes):
                self.files.pipe_file(path, source)
            else:
                self.files.put_file(f"/dev/fd/{source.fileno()}", path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DuetError:
            raise
        except (ImportError, ValueError) as error:
            raise CacheError(
                f"{self.url} cannot be opened: {self._told(error)}",
                "A URL was needed whose file system fsspec knows: s3://, gs://, hf://, sftp://, file:// or a path.",
                "Install the package that it names, or use another URL.",
            ) from _without(error, self._secrets)
        except Exception as error:  # each file system has errors of its own
            raise self._failure(error) from _without(error, self._secrets)

    def _failure(self, error: Exception) -> CacheError:
        kinds = _kinds(error)
        again = "See to it, then give the same command again: it does only the rest."
        if kinds & NO_CREDENTIALS:
            return CacheError(f"{self.url}: there are no credentials for it here.", STAYS, again)
        if isinstance(error, PermissionError):
            return CacheError(f"{self.url}: access was denied ({self._told(error)}).", STAYS, again)
        if kinds & UNREACHABLE:
            return CacheError(f"{self.url}: the server cannot be reached ({self._told(error)}).", STAYS, again)
        if isinstance(error, FileNotFoundError):
            return CacheError(f"{self.url}: it is not there ({self._told(error)}).", STAYS, "Check the URL.")
        return CacheError(f"{self.url}: {type(error).__name__}: {self._told(error)}", STAYS, again)

    def _told(self, error: Exception) -> str:
        """What the error says, on one line, without the secrets of the URL."""
        text = " ".join(masked(str(error)).split())
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _kinds(error: BaseException) -> set[str]:
    return {type(each).__name__ for each in _chain(error)}


def _without(error: Exception, secrets: list[str]) -> Exception | None:
    """The error as the cause of another, unless a traceback of it would show a secret."""
    told = " ".join(repr(each) for each in _chain(error))
    return None if any(secret in told for secret in secrets) else error


def _put_here(source: BinaryIO | bytes, path: Path) -> None:
    make_own_folder(path.parent)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with open_new(temporary) as file:
        if isinstance(source, bytes):
            file.write(source)
        else:
            source.seek(0)
            shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
