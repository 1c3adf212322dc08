"""Labels as extended xyz: for ASE, which reads energies and forces, and for the way from one store to another."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import ase
import ase.io
import numpy as np

from particlegen.energy.fingerprint import canonical_json, settings_hash, system_from, system_json
from particlegen.energy.label import Label, contradict
from particlegen.energy.labels import LabelStore
from particlegen.io import atomic
from particlegen.io.objects import FLAT_HEIGHT, elements_of
from particlegen.settings import InputError

__all__ = ["export_labels", "import_labels", "read_labels"]

LARGEST = 2**30
"""Bytes of a file of labels that is read."""
SUFFIXES = (".extxyz", ".xyz")


def _resolved(store: LabelStore, stated: str) -> str:
    """The hash in the store that begins with what was stated."""
    known = [summary.settings_hash for summary in store.summaries()]
    found = [key for key in known if key.startswith(stated)]
    if len(found) != 1:
        which = "several begin so" if found else "it is not there"
        raise InputError(
            f"--settings {stated}: {which}; {store.path} has {', '.join(key[:12] for key in known) or 'none'}"
        )
    return found[0]


def export_labels(store: LabelStore, output: str | Path, settings: str | None = None) -> int:
    """Write labels to an extended xyz file, failed ones too, every number in its shortest exact form.

    Lengths and energies are in the system's own unit; one σ is read as 1 Å and one ε as 1 eV by ASE. Two dimensions
    lie at z = 0; species that are no elements get stand-ins, as in other exports.

    Args:
        store: where the labels are.
        output: the file; never overwritten.
        settings: beginning of a hash of settings; default all labels.

    Returns:
        How many labels were written.

    Raises:
        InputError: a file that exists, a suffix that readers do not know, settings that are not in the store, or no
            labels at all.
        RunError: the disk is full.
    """
    output = Path(output)
    if output.suffix not in SUFFIXES:
        raise InputError(f"{output}: a file of labels ends in {' or '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise InputError(f"{output}: folder {output.parent} is not there; make it first")
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists already; choose another name with -o, or remove it")
    contents = {summary.settings_hash: summary.settings for summary in store.summaries()}
    chosen = None if settings is None else _resolved(store, settings)
    count = 0
    with atomic.writing(output) as aside, aside.open("w", encoding="ascii") as file:
        for label in store.labels(chosen):
            file.write(_frame(label, contents[label.settings_hash]))
            count += 1
        if count == 0:
            raise InputError(f"{store.path}: holds no labels yet; nothing was written")
    return count


def _frame(label: Label, settings: dict[str, Any]) -> str:
    """One frame; what ASE has no name for is JSON under `label`."""
    system, dim = label.system, label.system.dim
    keys = []
    if system.geometry.periodic:
        edges = [*system.torus.lengths, FLAT_HEIGHT][:3]
        keys.append(f'Lattice="{" ".join(repr(float(value)) for value in np.diag(edges).ravel())}"')
    pbc = ("T" if system.geometry.periodic and axis < dim else "F" for axis in range(3))
    forces = "" if label.forces is None else ":forces:R:3"
    keys += [f'pbc="{" ".join(pbc)}"', f"Properties=species:S:1:pos:R:3{forces}"]
    keys += [] if label.energy is None else [f"energy={label.energy!r}"]
    keys += [f"converged={'T' if label.converged else 'F'}"]
    rest = {
        "settings_hash": label.settings_hash,
        "geometry_hash": label.geometry_hash,
        "provider": label.provider,
        "settings": settings,
        "system": json.loads(system_json(system)),
        "virial": None if label.virial is None else repr(label.virial),
        "reason": label.reason,
        "iterations": label.iterations,
        "seconds": label.seconds,
        "time": label.time,
        "digest": label.digest,
    }
    quoted = canonical_json(rest).replace("\\", "\\\\").replace('"', '\\"')
    keys.append(f'label="_JSON {quoted}"')
    arrays = [label.positions] if label.forces is None else [label.positions, label.forces]
    table = np.concatenate([np.pad(array, ((0, 0), (0, 3 - dim))) for array in arrays], axis=1).tolist()
    elements = elements_of(system)
    symbols = (elements[system.species_names[s]] for s in system.species)
    rows = (f"{symbol} {' '.join(map(repr, row))}" for symbol, row in zip(symbols, table, strict=True))
    return "\n".join([str(system.n_particles), " ".join(keys), *rows, ""])


def import_labels(path: str | Path, source: str | Path, settings: Sequence[str] = ()) -> dict[str, int]:
    """Bring the labels of an exported file into a store, bit for bit; all of them or none.

    Args:
        path: the store; made if it is missing.
        source: what `export_labels` wrote.
        settings: beginnings of the hashes of settings that are to be taken although the store, which has others, does
            not know them. A store without any labels takes what comes.

    Returns:
        `new`, `completed` (a success for a failure, forces for an energy) and `known`: how many labels.

    Raises:
        InputError: the file is missing, no export of labels or was edited; settings that are foreign to the store; a
            label that contradicts one of the store. The store is as it was.
    """
    labels, contents = [], {}
    for label, content in read_labels(Path(source)):
        labels.append(label)
        contents[label.settings_hash] = content
    store = LabelStore(path, create=False) if Path(path).exists() else None
    known = {summary.settings_hash for summary in store.summaries() if summary.labels} if store else set()
    for key in contents:
        if known and key not in known and not any(key.startswith(stated) for stated in settings):
            raise InputError(
                f"{source}: has labels of the settings {key[:12]}, which {path} does not know (it has "
                f"{', '.join(sorted(other[:12] for other in known))}); to take them: --settings {key[:12]}"
            )
    held = {}
    if store:
        for key in contents:
            held |= {(key, g): label for g, label in store.get(key, [one.geometry_hash for one in labels]).items()}
    for label in labels:
        other = held.get((label.settings_hash, label.geometry_hash))
        if other is not None and contradict(other, label):
            raise InputError(
                f"{source}: the label of geometry {label.geometry_hash[:12]} has the energy {label.energy}, {path} has "
                f"{other.energy} under the same settings; import into another store and compare"
            )
    store = store or LabelStore(path)
    for content in contents.values():
        store.add_settings(content)
    counts = {"new": 0, "completed": 0, "known": 0}
    for kept in store.put(labels):
        before = held.get((kept.settings_hash, kept.geometry_hash))
        counts["new" if before is None else "known" if before.digest == kept.digest else "completed"] += 1
    return counts


def read_labels(source: Path) -> Iterator[tuple[Label, dict[str, Any]]]:
    """The labels of a file with the settings of each.

    Raises:
        InputError: missing, too large, no export of labels, or edited.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file; check the path")
    if source.stat().st_size > LARGEST:
        raise InputError(f"{source}: more than {LARGEST} bytes; export the labels in parts (--settings)")
    try:
        # The open file and not its name, in which ASE would look for an index, for compression, for a database.
        with source.open(encoding="utf-8") as stream:
            for number, atoms in enumerate(ase.io.iread(stream, index=":", format="extxyz"), start=1):
                yield _label(f"{source}: frame {number}", cast(ase.Atoms, atoms))
    except InputError:
        raise
    except Exception as error:  # ASE's readers raise whatever they stumble over
        raise InputError(f"{source}: ASE cannot read it as extended xyz ({error}); check the file") from error


def _label(where: str, atoms: ase.Atoms) -> tuple[Label, dict[str, Any]]:
    rest = atoms.info.get("label")
    if not isinstance(rest, dict):
        raise InputError(f"{where}: no exported label; only what `particlegen labels export` wrote can be imported")
    found = atoms.calc.results if atoms.calc is not None else {}
    try:
        system = system_from(canonical_json(rest["system"]))
        energy, forces, virial = found.get("energy"), found.get("forces"), rest["virial"]
        label = Label(
            settings_hash=settings_hash(rest["settings"]),
            system=system,
            positions=atoms.positions[:, : system.dim].copy(),
            energy=None if energy is None else float(energy),
            forces=None if forces is None else forces[:, : system.dim].copy(),
            virial=None if virial is None else float(virial),
            reason=rest["reason"],
            iterations=rest["iterations"],
            seconds=rest["seconds"],
            provider=rest["provider"],
            time=rest["time"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: is no whole label ({type(error).__name__}: {error}); export it again") from error
    for name in ("settings_hash", "geometry_hash", "digest"):
        if getattr(label, name) != rest.get(name):
            raise InputError(f"{where}: does not agree with its {name}; it was edited or damaged, export it again")
    return label, rest["settings"]
