"""A serialised OpenMM system, looked through before OpenMM reads it.

OpenMM's `PythonForce` keeps its function in the XML as a pickle, so that reading the file runs what its author liked.
Only the types of element that are listed here are handed on, and in the form in which they were looked at: the tree is
written out again, so that no second reader can understand the file otherwise.
"""

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from particlegen.io.reading import Damaged, read_bytes
from particlegen.settings import InputError

__all__ = ["LARGEST_XML", "checked_xml"]

LARGEST_XML = 256 * 2**20
"""Bytes; a system of 10⁵ particles has some 10 MB."""

TYPES = frozenset(
    f"{kind}Force"
    for kind in (
        *("ATM", "AmoebaGeneralizedKirkwood", "AmoebaMultipole", "AmoebaTorsionTorsion", "AmoebaVdw"),
        *("AmoebaWcaDispersion", "CMAPTorsion", "ConstantPotential", "CustomAngle", "CustomBond"),
        *("CustomCV", "CustomCentroidBond", "CustomCompoundBond", "CustomExternal", "CustomGB", "CustomHbond"),
        *("CustomManyParticle", "CustomNonbonded", "CustomTorsion", "CustomVolume", "Drude", "GBSAOBC", "GayBerne"),
        *("HarmonicAngle", "HarmonicBond", "HippoNonbonded", "LCPO", "Nonbonded", "OrientationRestraint"),
        *("PeriodicTorsion", "RBTorsion", "RG", "RMSD"),
    )
) | {
    "System",
    "AndersenThermostat",
    "CMMotionRemover",
    "MonteCarloBarostat",
    *(f"Continuous{dim}DFunction" for dim in (1, 2, 3)),
    *(f"Discrete{dim}DFunction" for dim in (1, 2, 3)),
}


def checked_xml(path: Path) -> str:
    """The XML of an OpenMM system, written anew from what was looked at.

    Raises:
        InputError: missing, larger than 256 MB, no XML, entities, or something that is none of OpenMM's own forces and
            functions of numbers.
    """
    try:
        content = read_bytes(path, LARGEST_XML)
    except Damaged as problem:
        raise InputError(f"{path}: cannot be read: {problem}") from None
    try:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse
        parser.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, expat.ExpatError, ValueError, RecursionError, LookupError) as error:
        raise InputError(f"{path}: no serialised OpenMM system: {error}") from None
    for element in root.iter():
        for kind in (element.get("type"), element.tag if element is root else None):
            if kind is not None and kind not in TYPES and not kind.isdigit():
                raise InputError(
                    f"{path}: {kind[:60]!r} is not accepted: a system may hold OpenMM's own forces without Python code "
                    "(PythonForce); write the energy as a custom force"
                )
    return ElementTree.tostring(root, encoding="unicode")


def _refuse(*declaration: object) -> None:
    raise ValueError("it declares a document type, which OpenMM never writes")
