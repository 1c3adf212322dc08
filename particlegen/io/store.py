"""The run store: frames arrive as immutable segments and end up in one H5MD file, `data.h5`.

Layout of `data.h5` (H5MD 1.1, de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546 (2014)):
`/particles/ENSEMBLE/{box, species, position/{value, step, time}}` and
`/observables/ENSEMBLE/NAME/{value, step, time}`; step and time count frames. Ensembles: reference, generated,
production. Arrays are float64 or integers, one row per frame, each block with its own checksum.
"""

import errno
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from particlegen.geometry import FlatTorus
from particlegen.io import atomic
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem

__all__ = ["ENSEMBLES", "RunStore"]

ENSEMBLES = ("reference", "generated", "production")
SEGMENT = re.compile(r"(\d{8})-(\d{1,10})\.h5")
BLOCK_BYTES = 2**20
"""Size of one checksummed block of a dataset."""
COPY_BYTES = 2**24
"""Most that consolidation holds of one array."""


@dataclass(frozen=True)
class _Part:
    """A stretch of frames in one file."""

    path: Path
    group: str
    start: int
    frames: int


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise RunError(
            f"{path}: damaged ({error}); restore it, or remove it and resume: what it held is made again"
        ) from error


def _within(group: Any, name: str) -> Any:
    """What lies at a path of hard links, so that neither another file nor another place is read.

    Raises:
        KeyError: nothing, or a soft or external link on the way.
    """
    where = group
    for step in name.split("/"):
        if not isinstance(where, h5py.Group) or not isinstance(where.get(step, getlink=True), h5py.HardLink):
            raise KeyError(f"{group.name}/{name} is missing")
        where = where[step]
    return where


def _group(group: Any, name: str) -> Any:
    """A group at a path of hard links; errors as `_within`, and KeyError for something else."""
    found = _within(group, name)
    if not isinstance(found, h5py.Group):
        raise KeyError(f"{group.name}/{name} is no group")
    return found


def _rows(group: Any, name: str) -> Any:
    """A dataset that can be trusted to hold what it claims.

    Links, derived datasets, filters that make many bytes of few, and shapes larger than what is stored are refused
    before any allocation.
    """
    data = _within(group, name)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu" or data.ndim < 1:
        raise ValueError(f"{group.name}/{name} is no numeric array")
    properties = data.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if not filters <= {h5py.h5z.FILTER_FLETCHER32}:
        raise ValueError(f"{group.name}/{name} is compressed, which this package never writes")
    if data.is_virtual or data.external or data.id.get_storage_size() < data.size * data.dtype.itemsize:
        raise ValueError(f"{group.name}/{name} is not stored in full")
    if data.size * data.dtype.itemsize > Path(data.file.filename).stat().st_size:
        raise ValueError(f"{group.name}/{name} claims more than the file holds")
    return data


def _count(group: Any, name: str) -> int:
    """An attribute that counts frames or chunks: one integer, no larger than the file is long."""
    attribute = group.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "iu":
        raise ValueError(f"{group.name}: attribute {name!r} is no integer")
    found, size = int(group.attrs[name]), Path(group.file.filename).stat().st_size
    if not 0 <= found <= size:
        raise ValueError(f"{group.name}: {name} {found} cannot be in a file of {size} bytes")
    return found


def _create(group: Any, name: str, rows: int, like: Any) -> Any:
    """An empty dataset of `rows` rows like `like`, checksummed block by block."""
    width = max(1, int(np.prod(like.shape[1:]))) * like.dtype.itemsize
    chunk = (max(1, min(rows, BLOCK_BYTES // width)), *like.shape[1:])
    if rows == 0 or 0 in like.shape:
        return group.create_dataset(name, shape=(rows, *like.shape[1:]), dtype=like.dtype)
    return group.create_dataset(
        name, shape=(rows, *like.shape[1:]), dtype=like.dtype, chunks=chunk, fletcher32=True, track_times=False
    )


class RunStore:
    """Frames of a run, by ensemble.

    Args:
        folder: the run folder; segments lie in `segments/`, the consolidated file is `data.h5`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"RunStore({str(self.folder)!r})"

    @property
    def file(self) -> Path:
        """The consolidated H5MD file."""
        return self.folder / "data.h5"

    def _segment_folder(self, ensemble: str) -> Path:
        if ensemble not in ENSEMBLES:
            raise ValueError(f"unknown ensemble {ensemble!r}; expected one of {', '.join(ENSEMBLES)}")
        return self.folder / "segments" / ensemble

    def _consolidated(self, ensemble: str) -> tuple[int, int]:
        """(chunks, frames) of an ensemble that `data.h5` holds."""
        if not self.file.is_file():
            return 0, 0
        with _opened(self.file) as file:
            if ensemble not in _group(file, "observables"):
                return 0, 0
            group = _group(file, f"observables/{ensemble}")
            return _count(group, "chunks"), _count(group, "frames")

    def _loose(self, ensemble: str, chunks: int) -> dict[int, tuple[Path, int]]:
        """Segments that are not in `data.h5`: chunk → (path, frames)."""
        folder, found = self._segment_folder(ensemble), {}
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                match = SEGMENT.fullmatch(path.name)
                if match and int(match[1]) >= chunks:
                    if int(match[2]) > path.stat().st_size:  # a frame takes a byte at least
                        raise RunError(f"{path}: damaged: it is too short for the frames of its name; restore it")
                    found[int(match[1])] = (path, int(match[2]))
        return found

    def _parts(self, ensemble: str) -> list[_Part]:
        """Where the frames of an ensemble lie, in order. Raises RunError when a chunk is missing in between."""
        chunks, frames = self._consolidated(ensemble)
        parts = [_Part(self.file, "", 0, frames)] if frames else []
        for expected, (chunk, (path, count)) in enumerate(sorted(self._loose(ensemble, chunks).items()), start=chunks):
            if chunk != expected:
                raise RunError(f"{path.parent}: chunk {expected} is missing; resume the run to make it again")
            parts.append(_Part(path, "arrays", frames, count))
            frames += count
        return parts

    def append(self, ensemble: str, chunk: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one segment, whole or not at all; a chunk that is there already is replaced.

        Args:
            ensemble: `reference`, `generated` or `production`.
            chunk: its place in the sequence, from 0.
            arrays: by field name, all with the same number of frames as first dimension: `position`
                `(frame, N, d)`, `energy`, `chain`, `log_q`, `log_q_error`, `log_weight`.

        Raises:
            RunError: the disk is full, or the chunk is consolidated already.
        """
        folder = self._segment_folder(ensemble)
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or not 0 <= chunk < 10**8:
            raise ValueError(f"a segment needs arrays of equal length and a chunk number, found {lengths}, {chunk}")
        if any(np.asarray(array).dtype.kind not in "fiu" for array in arrays.values()):
            raise ValueError("a segment holds numbers only")
        if chunk < self._consolidated(ensemble)[0]:
            raise RunError(f"{self.file}: chunk {chunk} of {ensemble} is consolidated already and cannot be replaced")
        frames = lengths.pop()
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver="latest") as file:
            group: Any = file.create_group("arrays")
            for name, array in arrays.items():
                _create(group, name, frames, np.asarray(array))[...] = array
        path = folder / f"{chunk:08d}-{frames}.h5"
        with atomic.failures_named(path):
            folder.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, buffer.getvalue())
        for old in folder.glob(f"{chunk:08d}-*.h5"):
            if old != path:
                old.unlink()

    def segments(self, ensemble: str) -> list[int]:
        """Chunk numbers that are stored, consolidated or not, in order."""
        chunks, _ = self._consolidated(ensemble)
        return [*range(chunks), *sorted(self._loose(ensemble, chunks))]

    def consolidated(self, ensemble: str) -> int:
        """Number of chunks that `data.h5` holds."""
        return self._consolidated(ensemble)[0]

    def length(self, ensemble: str) -> int:
        """Number of frames stored; 0 for an ensemble that has not begun."""
        chunks, frames = self._consolidated(ensemble)
        return frames + sum(count for _, count in self._loose(ensemble, chunks).values())

    def names(self, ensemble: str) -> list[str]:
        """Fields that an ensemble holds."""
        parts = self._parts(ensemble)
        if not parts:
            return []
        with _opened(parts[0].path) as file:
            if parts[0].group:
                return sorted(_group(file, parts[0].group))
            has_position = "position" in _group(file, f"particles/{ensemble}")
            return sorted([*_group(file, f"observables/{ensemble}"), *(["position"] if has_position else [])])

    def read(self, ensemble: str, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start:stop` of a field, in the order of the chunks; both may be negative, as in a slice.

        Raises:
            InputError: the ensemble is empty or has no such field.
            RunError: a file is damaged (named), or a chunk is missing.
        """
        parts = self._parts(ensemble)
        start, stop, _ = slice(start, stop).indices(parts[-1].start + parts[-1].frames if parts else 0)
        if not parts or name not in self.names(ensemble):
            raise InputError(f"{self.folder}: no {name!r} of ensemble {ensemble!r} there; see particlegen status")
        pieces = [
            self._rows_of(part, ensemble, name, max(start - part.start, 0), min(stop - part.start, part.frames))
            for part in parts
            if start < part.start + part.frames and stop > part.start
        ]
        return np.concatenate(pieces) if pieces else self._rows_of(parts[0], ensemble, name, 0, 0)

    def blocks(self, ensemble: str, name: str, size: int = 1024) -> Iterator[np.ndarray]:
        """A field in pieces of at most `size` rows; errors as `read`."""
        for start in range(0, self.length(ensemble), size):
            yield self.read(ensemble, name, start, start + size)

    @staticmethod
    def _rows_of(part: _Part, ensemble: str, name: str, start: int, stop: int) -> np.ndarray:
        with _opened(part.path) as file:
            if part.group:
                data = _rows(file, f"{part.group}/{name}")
            else:
                room = "particles" if name == "position" else "observables"
                data = _rows(file, f"{room}/{ensemble}/{name}/value")
            if len(data) != part.frames:
                raise ValueError(f"{data.name} has {len(data)} frames, {part.frames} were written")
            return data[start : max(start, stop)]

    def consolidate(self, ensemble: str, system: ParticleSystem | None = None) -> None:
        """Move the segments of an ensemble into `data.h5`, a block at a time; they go once it is on the disk.

        Args:
            ensemble: which one; nothing happens when it has no segments.
            system: fills in box and species of all ensembles, as H5MD wants them; without it boxes have no edges.

        Raises:
            RunError: a segment is damaged or missing, or the disk is full; everything is as it was.
        """
        parts = self._parts(ensemble)
        if any(part.group for part in parts):
            with (
                atomic.writing(self.file) as aside,
                aside.open("w+b") as raw,
                h5py.File(raw, "w", libver="latest") as file,
            ):
                # HDF5 accepts only an empty file to begin with, so the reservation comes after it is open.
                _reserve(raw, self._size_of(parts))
                _describe(file)
                self._keep_others(file, ensemble, system)
                self._write_ensemble(file, ensemble, parts, self.segments(ensemble)[-1] + 1, system)
        # Also what a killed process left behind after the new file was in place.
        chunks, _ = self._consolidated(ensemble)
        folder = self._segment_folder(ensemble)
        for path in folder.glob("*.h5"):
            match = SEGMENT.fullmatch(path.name)
            if match and int(match[1]) < chunks:
                path.unlink()

    def _size_of(self, parts: list[_Part]) -> int:
        """Bytes, rounded up, that the new file will take."""
        old = self.file.stat().st_size if self.file.is_file() else 0
        stored = old + sum(part.path.stat().st_size for part in parts if part.group)
        return stored + stored // 50 + 64 * (parts[-1].start + parts[-1].frames) + 2**20

    def _keep_others(self, file: Any, ensemble: str, system: ParticleSystem | None) -> None:
        """What `data.h5` holds of other ensembles, read and written anew: HDF5 copies a damaged object for ever."""
        for other in ENSEMBLES:
            chunks, frames = self._consolidated(other)
            if other != ensemble and frames:
                self._write_ensemble(file, other, [_Part(self.file, "", 0, frames)], chunks, system)

    def _write_ensemble(
        self, file: Any, ensemble: str, parts: list[_Part], chunks: int, system: ParticleSystem | None
    ) -> None:
        frames = parts[-1].start + parts[-1].frames
        particles = _describe_particles(file["particles"], ensemble, system)
        observables = file["observables"].create_group(ensemble)
        observables.attrs["chunks"] = chunks
        observables.attrs["frames"] = frames
        first: dict[str, Any] = {}
        for name in self.names(ensemble):
            room = particles if name == "position" else observables
            element = room.create_group(name)
            value = None
            for part in parts:
                for rows in self._pieces(part, ensemble, name):
                    value = _create(element, "value", frames, rows[1]) if value is None else value
                    value[part.start + rows[0] : part.start + rows[0] + len(rows[1])] = rows[1]
            shared = first.setdefault(room.name, element)
            if shared is element:
                element["step"] = np.arange(frames)
                element["time"] = np.arange(frames, dtype=np.float64)
            else:
                # One array serves all fields, by hard links, as H5MD allows.
                element["step"], element["time"] = shared["step"], shared["time"]

    def _pieces(self, part: _Part, ensemble: str, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of a part, at most COPY_BYTES of rows at a time; one empty piece for an empty part."""
        row_bytes = max(1, self._rows_of(part, ensemble, name, 0, 1).nbytes)
        step = max(1, COPY_BYTES // row_bytes)
        for start in range(0, max(part.frames, 1), step):
            yield start, self._rows_of(part, ensemble, name, start, min(start + step, part.frames))


def _reserve(raw: IO[bytes], size: int) -> None:
    """Allocate the file's blocks in advance: HDF5 crashes when the disk fills up under it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(raw.fileno(), 0, size)
    elif shutil.disk_usage(Path(raw.name).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _describe(file: Any) -> None:
    """What H5MD 1.1 wants to know about the file, and its empty rooms."""
    try:
        release = version("particlegen")
    except PackageNotFoundError:
        release = "unknown"
    about = file.create_group("h5md")
    about.attrs["version"] = np.array([1, 1], dtype=np.int32)
    about.create_group("author").attrs["name"] = "unknown"
    creator = about.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "particlegen", release
    file.create_group("particles")
    file.create_group("observables")


def _describe_particles(room: Any, ensemble: str, system: ParticleSystem | None) -> Any:
    group = room.create_group(ensemble)
    box = group.create_group("box")
    if system is None:
        return group
    periodic = isinstance(system.geometry, FlatTorus)
    box.attrs["dimension"] = system.dim
    box.attrs["boundary"] = np.array(["periodic" if periodic else "none"] * system.dim, dtype="S8")
    if periodic:
        box["edges"] = np.asarray(system.torus.lengths, dtype=np.float64)
    group["species"] = np.asarray(system.species, dtype=np.int64)
    group["species"].attrs["names"] = np.array(system.species_names, dtype=h5py.string_dtype())
    group.attrs["units"] = system.units
    return group
