"""The folder of generated Triton programs: `$PIDSL_CACHE`, or `pidsl` in the user's cache folder.

It holds the text of each program as a file, for debuggers and profilers and for whoever wants to read it; Triton reads
the text of its functions from there too, but does without once a program is loaded. Beside them are choices that took
time to make (see `pidsl.runtime.run_triton.tune`), which are made again where they are gone. So any process may remove
any file at any time, and whoever writes one removes those that were used least recently, until all of them together
have at most `$PIDSL_CACHE_MB` megabytes (256 unless set, 0 for the newest alone). What Triton makes of the programs,
it keeps in a folder of its own.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import time
from types import ModuleType

from pidsl.errors import BackendError

MEGABYTES = 256.0  # about 5000 programs
KEPT = ("program_", "tuned_")  # how the names of files begin that are removed when there are too many
ABANDONED = 3600  # seconds after which a file that is still being written belongs to a process that died


def folder() -> Path:
    """Where generated programs are written."""
    if chosen := os.environ.get("PIDSL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pidsl"


def limit() -> float:
    """How many bytes the programs may have together.

    Raises:
        BackendError: `PIDSL_CACHE_MB` is no number.
    """
    given = os.environ.get("PIDSL_CACHE_MB") or MEGABYTES
    with suppress(ValueError):
        if (found := float(given)) >= 0:
            return found * 1e6
    expected, hint = "a number of megabytes, at least 0", "PIDSL_CACHE_MB=256"
    raise BackendError(f"PIDSL_CACHE_MB = {given!r}", expected, hint=hint)


def write(source: str) -> Path:
    """Write `source` to a file named by its content; see `put`."""
    return put(f"program_{hashlib.sha256(source.encode()).hexdigest()[:24]}.py", source)


def put(name: str, text: str) -> Path:
    """Write a file of the folder, unless it holds that already; whoever reads it sees all of it or none.

    Raises:
        BackendError: the folder cannot be written, or `PIDSL_CACHE_MB` is no number.
    """
    most, home = limit(), folder()
    path = home / name
    try:
        if get(name) == text:
            with suppress(OSError):  # a folder that one may only read is good enough
                os.utime(path)  # used now
            return path
        home.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=home, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
        _shrink(home, path, most)
    except OSError as error:
        given, hint = f"the cache folder {home} cannot be written: {error.strerror}", "set PIDSL_CACHE to one"
        raise BackendError(given, "a folder for generated programs", hint=hint) from error
    return path


def get(name: str) -> str:
    """The text of a file of the folder; "" where there is none."""
    with suppress(FileNotFoundError):
        return (folder() / name).read_text(encoding="utf-8", errors="replace")
    return ""


def load(path: Path, source: str) -> ModuleType:
    """The program that was written to `path`, as a module; the file may be gone again."""
    name = f"pidsl_generated.{path.stem}"
    if name not in sys.modules:
        # with no time of change, `linecache` takes the text from here and looks for no file: so do Triton and debuggers
        linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
        module = ModuleType(name)
        module.__file__ = str(path)
        exec(compile(source, str(path), "exec"), module.__dict__)
        sys.modules[name] = module
    return sys.modules[name]


def _shrink(home: Path, newest: Path, most: float) -> None:
    """Remove what was used least recently, and what a process that died was writing; others may do so meanwhile."""
    kept = []
    for file in os.scandir(home):
        with suppress(FileNotFoundError):
            known = file.stat()
            if file.name.startswith(KEPT):
                kept.append((known.st_mtime_ns, known.st_size, file.path))
            elif file.name.endswith(".tmp") and time() - known.st_mtime > ABANDONED:
                os.unlink(file.path)
    size = sum(own for _, own, _ in kept)
    for _, own, path in sorted(kept):
        if size <= most:
            return
        if path != str(newest):
            with suppress(FileNotFoundError):
                os.unlink(path)
            size -= own
