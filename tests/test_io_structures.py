"""The structure reader: both dialects, and every way in which a file can be wrong."""

import ase
import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from particlegen.io.structures import read_structures
from particlegen.settings import InputError

LATTICE = 'Lattice="4 0 0 0 5 0 0 0 0"'


def write(tmp_path, text: str, name: str = "frames.xyz"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_extxyz_in_two_dimensions(tmp_path):
    text = f'2\n{LATTICE} Properties=species:I:1:pos:R:2:force:R:2 pbc="T T F" step=3\n1 0.5 -0.5 9 9\n2 4.0 7.5 9 9\n'
    (frame,) = read_structures(write(tmp_path, text))
    assert frame.species == (1, 2) and frame.lengths == (4.0, 5.0) and frame.dim == 2 and frame.periodic
    np.testing.assert_allclose(frame.positions, [[0.5, 4.5], [0.0, 2.5]])


@pytest.mark.parametrize(
    "comment",
    [LATTICE + " Properties=species:S:1:pos:R:3", LATTICE, 'Lattice="4 0 0 5" Properties=species:S:1:pos:R:2'],
)
def test_a_zero_or_open_third_vector_means_two_dimensions(tmp_path, comment):
    z = "" if "R:2" in comment else " 0.0"
    (frame,) = read_structures(write(tmp_path, f"2\n{comment}\nA 1 2{z}\nB 3 4{z}\n"))
    assert frame.dim == 2 and frame.lengths == (4.0, 5.0) and frame.species == ("A", "B")
    np.testing.assert_allclose(frame.positions, [[1, 2], [3, 4]])


def test_extxyz_in_three_dimensions_with_columns_in_any_order(tmp_path):
    text = (
        '1\npbc="T T T" Properties=radius:R:1:pos:R:3:species:S:1 Lattice="4 0 0 0 5 0 0 0 6"\n0.5 1 2 -1 A\n'
        '1\nProperties=species:S:1:pos:R:3 pbc="F F F"\nB -1 2 3\n\n'
    )
    periodic, free = read_structures(write(tmp_path, text, "frames.extxyz"))
    assert periodic.lengths == (4.0, 5.0, 6.0) and periodic.species == ("A",)
    assert periodic.diameters is not None and periodic.diameters.tolist() == [1.0]
    assert periodic.positions.tolist() == [[1.0, 2.0, 5.0]]
    assert free.lengths is None and not free.periodic and free.positions.tolist() == [[-1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("comment", "row"),
    [
        ("step:0 columns:id,pos dt:1 cell:4.0,5.0", "1 -1 6"),
        ("columns:species,position,velocity cell:4,5 model:IPL", "1 -1 6 0.1 0.2"),
        ("cell:4,5", "1 -1 6"),
        ("columns:x,y,id,mass cell:4,5", "-1 6 1 1.0"),
        ("metafmt:space,comma columns:id,pos,radius cell:4,5 mass:1.0,2.0", "1 -1 6 0.5"),
    ],
)
def test_atooms_dialect(tmp_path, comment, row):
    first, second = read_structures(write(tmp_path, f"1\n{comment}\n{row}\n" * 2))
    assert first.lengths == second.lengths == (4.0, 5.0) and first.species == (1,)
    np.testing.assert_allclose(first.positions, [[3.0, 1.0]])


def test_atooms_without_a_cell_and_plain_xyz_are_free_space(tmp_path):
    (frame,) = read_structures(write(tmp_path, "1\ncolumns:id,pos ndim:2\nA -1 6\n"))
    assert frame.lengths is None and frame.positions.tolist() == [[-1.0, 6.0]]
    (frame,) = read_structures(write(tmp_path, "1\nan octahedron\nA -1 6 2\n"))
    assert frame.lengths is None and frame.dim == 3


def test_reads_what_ase_writes(tmp_path):
    rng = np.random.default_rng(0)
    frames = [ase.Atoms("ArKr3", rng.uniform(0, 6, (4, 3)), cell=[4, 5, 6], pbc=True) for _ in range(3)]
    path = tmp_path / "ase.extxyz"
    ase.io.write(path, frames, format="extxyz")
    for frame, atoms in zip(read_structures(path), frames, strict=True):
        assert frame.species == ("Ar", "Kr", "Kr", "Kr") and frame.lengths == (4.0, 5.0, 6.0)
        np.testing.assert_allclose(frame.positions, np.mod(atoms.positions, [4, 5, 6]), atol=1e-7)


def test_other_formats_by_explicit_name_only(tmp_path):
    path = tmp_path / "POSCAR.vasp"
    ase.io.write(path, ase.Atoms("Ar2", [[0, 0, 0], [1, 2, 3]], cell=[4, 5, 6], pbc=True), format="vasp")
    (frame,) = read_structures(path, format="vasp")
    assert frame.lengths == (4.0, 5.0, 6.0) and frame.species == ("Ar", "Ar")
    with pytest.raises(InputError, match=r"suffix '\.vasp' is not read"):
        read_structures(path)
    for name in ("traj", "bundletrajectory", "json", "py"):
        with pytest.raises(InputError, match="expected one of cif"):
            read_structures(path, format=name)
    with pytest.raises(InputError, match="ASE cannot read it"):
        read_structures(path, format="gromacs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the file is empty"),
        ("\n\n", "line 1: the file is empty"),
        ("two\n\n", "line 1: expected the number of particles of frame 1, found 'two'"),
        ("-1\nx\n", "line 1: expected the number"),
        ("0\nx\n", "line 1: 0 particles announced"),
        ("999999999999\nx\n", "line 1: 999999999999 particles"),
        ("99999\nx\nA 0 0 0\n", "line 1: 99999 particles"),
        ("2\n", "line 1: 2 particles announced.*truncated"),
        ("1\ncell:4,5\n1 0 0\n1\n", "line 4: the file ends before the comment"),
        ("2\ncell:4,5\n1 0 0\n", "line 3: the file ends after 1 of 2 particles of frame 1; it is truncated"),
        ("1\ncell:4,5\n1 0 0\n2\ncell:4,5\n1 0 0\n", "line 6: the file ends after 1 of 2 particles of frame 2"),
        ("1\ncell:4,5\n1 0 zero\n", "line 3: a coordinate has to be a finite number, found 'zero'"),
        ("1\ncell:4,5\n1 0 nan\n", "line 3: a coordinate has to be a finite number"),
        ("1\ncell:4,5\n1 0 1e999\n", "line 3: a coordinate has to be a finite number"),
        ("1\ncell:4,5\n1 0\n", "line 3: expected 3 columns for particle 1 of frame 1, found 2"),
        ("1\ncell:4,5\n1 0 0 0\n", "line 3: expected 3 columns"),
        ("1\ncell:4,-5\n1 0 0\n", "line 2: the box needs 2 or 3 positive lengths"),
        ("1\ncell:4\n1 0\n", "line 2: the box needs 2 or 3 positive lengths"),
        ("1\ncell:4,x\n1 0 0\n", "line 2: a cell length has to be a finite number, found 'x'"),
        ("1\ncolumns:id,mass cell:4,5\n1 0\n", "line 2: columns:id,mass needs one of"),
        ("1\ncolumns:id,x,mass,y cell:4,5\n1 0 0 0\n", "line 2: the columns x, y, z have to follow"),
        ("1\ncolumns:id,x,y,z cell:4,5\n1 0 0 0\n", "line 2: 3 coordinates per particle do not fit"),
        ("1\ncolumns:id,pos,radius cell:4,5\n1 0 0 -1\n", "line 3: a diameter or radius has to be positive"),
        ('1\nLattice="4 0 0 1 5 0 0 0 6"\nA 0 0 0\n', "line 2: the Lattice is not rectangular"),
        ('1\nLattice="4 0 0 0 5 0"\nA 0 0 0\n', "line 2: Lattice needs 9 numbers"),
        ('1\nLattice="4 0 0 0 0 0 0 0 0"\nA 0 0 0\n', "line 2: the box needs 2 or 3 positive lengths"),
        ('1\nLattice="4 0 0 0 5 0 0 0 6" pbc="T F T"\nA 0 0 0\n', "line 2: pbc='T F T'"),
        ('2\nLattice="4 0 0 0 5 0 0 0 6" pbc="T T F"\nA 0 0 0\nA 0 0 1\n', "line 4: the box has no third dimension"),
        ('1\npbc="T T T" Properties=species:S:1:pos:R:3\nA 0 0 0\n', "line 2: pbc is true, but there is no Lattice"),
        (f"2\n{LATTICE}\nA 0 0 0\nA 1 1 1\n", "line 4: the box has no third dimension, but z differs"),
        ("1\nProperties=species:S:1:pos:R\nA 0 0 0\n", "line 2: Properties="),
        ("1\nProperties=species:S:1:mass:R:1\nA 0\n", "line 2: Properties has no pos"),
        ("1\nProperties=pos:R:3\n0 0 0\n", "line 2: Properties has no species column"),
        ("1\nenergy=1.0\nA 0 0 0\n", "line 2: the comment line has keys, but none"),
        ("1\n" + "x" * 200_000, "line 2: longer than"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        read_structures(path)
    assert "frames.xyz" in str(error.value)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such structure file"):
        read_structures(tmp_path / "missing.xyz")
    with pytest.raises(InputError, match="no such structure file"):
        read_structures(tmp_path)
    binary = tmp_path / "binary.xyz"
    binary.write_bytes(b"1\n\xff\xfe\nA 0 0 0\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_structures(binary)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), char=st.characters(codec="ascii"))
def test_damaged_files_raise_input_errors_or_parse(tmp_path_factory, cut, flip, char):
    text = f'3\n{LATTICE} Properties=species:I:1:pos:R:2 pbc="T T F"\n1 0.5 0.5\n2 1.5 2.5\n1 3 4\n' * 4
    damaged = text[:flip] + char + text[flip + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "frames.xyz"
    path.write_text(damaged[: max(cut, 1)])
    try:
        frames = read_structures(path)
    except InputError as error:
        assert "frames.xyz" in str(error)
    else:
        assert all(np.isfinite(frame.positions).all() for frame in frames)
