"""The label store: every answer of a costly engine, kept in one SQLite file from the moment it arrives.

SQLite by itself and not through `ase.db`: that has no unique keys, so two processes store one geometry twice, and its
lock file outlives a killed process and stops every later writer. A rollback journal and not WAL, which does not work
on the network file systems of clusters; one file holds everything.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from particlegen.energy.fingerprint import canonical_json, settings_hash, system_from, system_hash, system_json
from particlegen.energy.label import Label, merged
from particlegen.io.reading import Damaged, json_object
from particlegen.settings import InputError, RunError

__all__ = ["LabelStore", "LabelSummary"]

APPLICATION_ID = 0x70676C62  # "pglb", so that another program's database is known as such
FORMAT = 1
_PAGE = 500
LONGEST = 64 * 2**20
"""Bytes of a text or a block of numbers in a store; the positions of 10⁶ particles are 24 MB."""

_SCHEMA = f"""
CREATE TABLE settings (hash TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE systems (hash TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE labels (
    settings TEXT NOT NULL REFERENCES settings (hash),
    geometry TEXT NOT NULL,
    system TEXT NOT NULL REFERENCES systems (hash),
    positions BLOB NOT NULL,
    energy REAL,
    forces BLOB,
    virial REAL,
    converged INTEGER GENERATED ALWAYS AS (reason IS NULL),
    reason TEXT,
    iterations INTEGER,
    seconds REAL NOT NULL,
    provider TEXT NOT NULL,
    time REAL NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (settings, geometry)
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""
_TABLES = [text.strip() for text in _SCHEMA.split(";") if text.strip().startswith("CREATE")]
"""As SQLite remembers them."""
_ANSWER = ("positions", "energy", "forces", "virial", "reason", "iterations", "seconds", "provider", "time", "digest")
_COLUMNS = ("settings", "geometry", "system", *_ANSWER)
_SELECT = (
    f"SELECT labels.rowid, {', '.join(f'labels.{name}' for name in _COLUMNS)}, systems.content "
    "FROM labels LEFT JOIN systems ON labels.system = systems.hash "
)
_WRITE = (
    f"INSERT INTO labels ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (settings, geometry) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _ANSWER)
)


@dataclass(frozen=True)
class LabelSummary:
    """What a store holds under one hash of settings.

    Args:
        settings_hash, settings: which.
        providers: names under which they were stored.
        labels, converged, failed, with_forces: how many.
        seconds: that they took together.
    """

    settings_hash: str
    settings: dict[str, Any]
    providers: tuple[str, ...]
    labels: int
    converged: int
    failed: int
    with_forces: int
    seconds: float


class LabelStore:
    """Labels in an SQLite file, keyed by the hashes of settings and geometry.

    What `put` returned from is on the disk: a process that is killed, or a machine that loses its power, loses the
    labels in flight and no others. Several processes and threads may use one file; it is opened anew for every call,
    so the store itself is a plain value that can be handed to workers. Every label is checked against its digest when
    it is read.

    Args:
        path: the file.
        create: whether a missing file is made; otherwise that is an error.
        wait: seconds to wait for another process that holds the file.

    Raises:
        InputError: no such file or folder, a file that is something else, damaged, or of a newer format; it is left
            as it was.
        RunError: the file stayed locked for `wait` seconds, or the disk is full. Every method raises these.
    """

    def __init__(self, path: str | Path, create: bool = True, wait: float = 30.0):
        self.path, self._wait = Path(path), wait
        if not create and not self.path.is_file():
            raise InputError(f"{path}: no such label store; check the path")
        if create and not self.path.parent.is_dir():
            raise InputError(f"{path}: folder {self.path.parent} is not there; make it first")
        with self._connection("rwc" if create else "rw") as connection:
            if create and _is_blank(connection):
                connection.execute("BEGIN IMMEDIATE")
                if _is_blank(connection):  # another process may have been faster
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                connection.execute("COMMIT")
            self._check(connection)

    def add_settings(self, settings: Mapping[str, Any]) -> str:
        """Make settings known, and return their hash; labels need theirs to be known."""
        key, content = settings_hash(settings), canonical_json(settings)
        with self._connection() as connection:
            if connection.execute("SELECT 1 FROM settings WHERE hash = ?", (key,)).fetchone() is None:
                connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (key, content))
        return key

    def put(self, labels: Sequence[Label]) -> list[Label]:
        """Store labels, all of them or none, and return what the store now holds in their place (see `merged`)."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            held = [self._settle(connection, label) for label in labels]
            connection.execute("COMMIT")
        return held

    def get(self, settings_hash: str, geometries: Sequence[str]) -> dict[str, Label]:
        """The labels of these geometries that are there, by geometry hash; failed ones too."""
        with self._connection() as connection:
            found = (self._one(connection, settings_hash, geometry) for geometry in geometries)
            return {label.geometry_hash: label for label in found if label is not None}

    def labels(self, settings_hash: str | None = None) -> Iterator[Label]:
        """All labels, or those under one hash, in the order of arrival; the file is not locked in between."""
        which = "" if settings_hash is None else "labels.settings = ? AND "
        arguments, last = (() if settings_hash is None else (settings_hash,)), -1
        while True:
            with self._connection() as connection:
                query = f"{_SELECT} WHERE {which} labels.rowid > ? ORDER BY labels.rowid LIMIT {_PAGE}"
                rows = connection.execute(query, (*arguments, last)).fetchall()
            yield from map(self._label, rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def summaries(self) -> list[LabelSummary]:
        """One per hash of settings, in the order of arrival."""
        query = (
            "SELECT settings.hash, settings.content, json_group_array(DISTINCT provider), COUNT(labels.rowid), "
            "TOTAL(converged), COUNT(forces), TOTAL(seconds) "
            "FROM settings LEFT JOIN labels ON labels.settings = settings.hash "
            "GROUP BY settings.rowid ORDER BY settings.rowid"
        )
        with self._connection() as connection:
            rows = connection.execute(query).fetchall()
        return [self._summary(*row) for row in rows]

    def _summary(
        self, key: str, content: str, providers: str, count: int, converged: float, with_forces: int, seconds: float
    ) -> LabelSummary:
        try:
            settings = json_object(content)
            names = sorted(str(name) for name in json.loads(providers) if name is not None)
            if settings_hash(settings) != key:
                raise Damaged("not what was stored")
        except (Damaged, ValueError, TypeError) as problem:
            raise self._damaged(f"settings {str(key)[:12]}: {problem}") from None
        return LabelSummary(
            settings_hash=key,
            settings=settings,
            providers=tuple(names),
            labels=count,
            converged=int(converged),
            failed=count - int(converged),
            with_forces=with_forces,
            seconds=seconds,
        )

    @contextmanager
    def _connection(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """A connection for one call; what was begun and not committed is undone when it closes."""
        try:
            uri = f"{self.path.resolve().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(uri, uri=True, timeout=self._wait, isolation_level=None)) as connection:
                # What is longer than anything this package stores is an error before it is allocated.
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = EXTRA")
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        except UnicodeDecodeError as error:  # in a text of SQLite's own
            raise self._damaged(str(error)) from error

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return RunError(f"{self.path}: locked by another process for {self._wait:g} s; wait for it or stop it")
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return RunError(
                f"{self.path}: cannot be written ({error}); check the disk and its space, what was stored is kept"
            )
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
            return InputError(f"{self.path}: cannot be opened for writing ({error}); check file, folder, permissions")
        if code == sqlite3.SQLITE_NOTADB:
            return InputError(f"{self.path}: is no label store ({error}); give another path, or move the file away")
        if isinstance(error, sqlite3.IntegrityError):
            return error
        return self._damaged(str(error))  # corrupt pages, text that is none, tables or columns that are gone

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: is damaged ({what}); it was left as it is: put a copy in its place, or save what can still "
            f"be read with: sqlite3 {self.path} .recover"
        )

    def _check(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            raise InputError(
                f"{self.path}: is an SQLite file, but no label store (tables: {', '.join(tables) or 'none'}); "
                "give another path, or move the file away"
            )
        if version != FORMAT:
            raise InputError(
                f"{self.path}: label format {version}, this version of particlegen reads {FORMAT}; use the version "
                "that wrote it"
            )
        # Views, triggers and computed columns of somebody else's making would run their own queries inside ours.
        held = [text for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        if sorted(held) != sorted(_TABLES):
            raise self._damaged("its tables are not those of a label store")
        (sound,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise self._damaged(sound)

    def _one(self, connection: sqlite3.Connection, settings_hash: str, geometry: str) -> Label | None:
        query = f"{_SELECT} WHERE labels.settings = ? AND labels.geometry = ?"
        row = connection.execute(query, (settings_hash, geometry)).fetchone()
        return None if row is None else self._label(row)

    def _settle(self, connection: sqlite3.Connection, label: Label) -> Label:
        held = self._one(connection, label.settings_hash, label.geometry_hash)
        best = label if held is None else merged(held, label)
        if best is not held:
            system = system_hash(best.system)
            connection.execute("INSERT OR IGNORE INTO systems VALUES (?, ?)", (system, system_json(best.system)))
            connection.execute(
                _WRITE,
                (
                    best.settings_hash,
                    best.geometry_hash,
                    system,
                    best.positions.astype("<f8").tobytes(),
                    best.energy,
                    None if best.forces is None else best.forces.astype("<f8").tobytes(),
                    best.virial,
                    best.reason,
                    best.iterations,
                    best.seconds,
                    best.provider,
                    best.time,
                    best.digest,
                ),
            )
        return best

    def _label(self, row: Sequence[Any]) -> Label:
        """A label from its row.

        Raises:
            InputError: the row is not what was stored.
        """
        values = dict(zip(_COLUMNS, row[1:-1], strict=True))
        try:
            system = system_from(row[-1])
            shape = system.n_particles, system.dim
            forces = values["forces"]
            label = Label(
                settings_hash=values["settings"],
                system=system,
                positions=np.frombuffer(values["positions"], "<f8").reshape(shape).copy(),
                energy=values["energy"],
                forces=None if forces is None else np.frombuffer(forces, "<f8").reshape(shape).copy(),
                virial=values["virial"],
                reason=values["reason"],
                iterations=values["iterations"],
                seconds=values["seconds"],
                provider=values["provider"],
                time=values["time"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self._damaged(f"label {row[0]}: {error}") from error
        if (label.geometry_hash, label.digest) != (values["geometry"], values["digest"]):
            raise self._damaged(f"label {row[0]} is not what was stored")
        return label


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file is empty, so that a store may be made in it."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return application == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
