"""Real text: the source code of the Python standard library, which is on every machine, and six novels."""

from __future__ import annotations

import os
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pidsl.errors import PidslError

LEAST = 1 << 20  # bytes for training to be worth it
MOST = 24 << 20
HELD_OUT = 12  # every so many files, one is held out
EXCLUDED = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__", "idle_test", "lib2to3"})

_STRING = re.compile(rb"\x00[\x04\x08]\x00\x09(\x00...)", re.DOTALL)  # ASCII or UTF-8, shorter than 2**24 bytes


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes to train on and bytes held out, from different files."""

    train: Tensor  # uint8 [bytes]
    held_out: Tensor
    files: int
    folder: Path

    def batch(self, size: int, length: int, generator: torch.Generator) -> Tensor:
        """`size` random excerpts of `length` bytes from the training files: int64 [size, length]."""
        starts = torch.randint(len(self.train) - length + 1, (size,), generator=generator)
        return torch.stack([self.train[s : s + length] for s in starts]).long()

    def validation(self, count: int, length: int) -> Tensor:
        """`count` excerpts spread evenly over the held-out files, the same ones every time: int64 [count, length]."""
        starts = np.linspace(0, len(self.held_out) - length, count).astype(int)
        return torch.stack([self.held_out[s : s + length] for s in starts]).long()


def standard_library(folder: Path | None = None) -> Text:
    """The modules of the standard library without its tests, in the order of their names.

    Raises:
        PidslError: there are none to read (some systems ship compiled modules only).
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    train, held_out = bytearray(), bytearray()
    count = 0
    for path in _modules(folder):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        (held_out if count % HELD_OUT == HELD_OUT - 1 else train).extend(content)
        count += 1
        if len(train) > MOST:
            break
    if len(train) < LEAST or not held_out:
        raise PidslError(
            f"{len(train)} bytes of Python source in {folder}",
            f"at least {LEAST}, to train on",
            hint="install the source of the standard library",
        )
    return Text(
        torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(held_out, dtype=torch.uint8), count, folder
    )


def novels(folder: Path | None = None) -> Text:
    """The six novels of Jane Austen as R's package janeaustenr has them, the last one held out.

    Args:
        folder: of the package, `.../site-library/janeaustenr`; default: where Debian's r-cran-janeaustenr installs it,
            or what NOVELS in the environment says.

    Raises:
        PidslError: they are not there, or not to be read.
    """
    folder = folder or Path(os.environ.get("NOVELS", "/usr/lib/R/site-library/janeaustenr"))
    path = folder / "data" / "Rdata.rdb"
    try:
        found = [_lines(stored) for stored in _stored(path.read_bytes())]
    except (OSError, zlib.error):
        found = []
    books = [text for text in found if len(text) > LEAST // 8]
    if len(books) < 2:
        raise PidslError(
            f"{len(books)} novels in {path}" if path.is_file() else f"no {path}",
            "the novels of R's package janeaustenr",
            hint="apt-get install r-cran-janeaustenr, or unpack it with dpkg -x and name its folder in NOVELS",
        )
    train = bytearray(b"".join(books[:-1]))
    return Text(
        torch.frombuffer(train, dtype=torch.uint8),
        torch.frombuffer(bytearray(books[-1]), dtype=torch.uint8),
        len(books),
        folder,
    )


def _stored(database: bytes) -> Iterator[bytes]:
    """The values in one of R's databases: each a length in four bytes, then a stream of zlib."""
    while database:
        stream = zlib.decompressobj()
        yield stream.decompress(database[4:])
        database = stream.unused_data


def _lines(stored: bytes) -> bytes:
    """The strings of a vector of them, in R's XDR format, a line each: flags of four bytes, the length, the bytes."""
    lines, at = [], 0
    while match := _STRING.search(stored, at):
        at = match.end() + int.from_bytes(match[1])
        lines.append(stored[match.end() : at])
    return b"\n".join(lines)


def _modules(folder: Path) -> list[Path]:
    """Sorted by their path inside the folder, so that every machine with this Python reads the same text."""
    found: list[Path] = []
    for parent, below, names in os.walk(folder):
        below[:] = [name for name in below if name not in EXCLUDED]  # not walked into
        found += [Path(parent, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
