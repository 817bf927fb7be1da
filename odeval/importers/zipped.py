"""Members of a zip file: `zipfile` of Python 3.11 cannot read zstd (method 93), pyarrow can."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa

from odeval.errors import OdevalError
from odeval.importers.tables import reason

_ZSTD = 93
_LOCAL_HEADER = 30  # bytes before the name of a member, whose own lengths may differ from the directory's


class ZippedLog:
    """A zip file, opened for reading.

    Args:
        path: The file.

    Raises:
        OdevalError: It is no whole zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise OdevalError(f"{path}: cannot be read ({reason(error)})") from error
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            self._file.close()
            raise OdevalError(f"{path}: is no whole zip file ({reason(error)})") from error
        # A member that was written twice is there twice, and the last one counts.
        self.members = {info.filename: info for info in self._zip.infolist()}
        self.repeated = len(self._zip.infolist()) - len(self.members)

    def __enter__(self) -> ZippedLog:
        return self

    def __exit__(self, *raised: object) -> None:
        self._zip.close()
        self._file.close()

    def read(self, name: str) -> bytes:
        """Read one member and check its size and checksum.

        Raises:
            OdevalError: It is missing or damaged.
        """
        where = f"{self.path} member {name}"
        if name not in self.members:
            raise OdevalError(f"{where}: is missing")
        info = self.members[name]
        try:
            data = self._zstd(info) if info.compress_type == _ZSTD else self._zip.read(info)
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            pa.ArrowException,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise OdevalError(f"{where}: is damaged ({reason(error)})") from error
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise OdevalError(f"{where}: is damaged (its checksum differs)")
        return data

    def _zstd(self, info: zipfile.ZipInfo) -> bytes:
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._file.seek(info.header_offset + _LOCAL_HEADER + lengths)
        packed = self._file.read(info.compress_size)
        with pa.input_stream(io.BytesIO(packed), compression="zstd") as stream:
            data: bytes = stream.read(info.file_size + 1)  # never more than promised, however small the packed size
        return data
