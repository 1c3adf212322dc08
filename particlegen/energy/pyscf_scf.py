"""One self-consistent field by PySCF: the molecule, two grids, remedies, the stability of open shells, the gradient."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from particlegen.energy.pyscf_settings import PySCFSettings, pyscf
from particlegen.settings import InputError
from particlegen.units import BOHR

__all__ = ["Deadline", "SCFError", "SCFSolution", "gradient", "make_molecule", "on_gpu", "solve", "spectrum"]

_COARSE_LEVEL = 0
_COARSE_CONVERGENCE = 1e-7
"""In Hartree; a density this close needs about five cycles on the fine grid, and a closer one no fewer."""
_BLOCK = 20
"""Blocks of grid points (56 each) at a time: their orbitals stay in cache."""

# PySCF's attributes of each attempt at convergence, in this order, each from a fresh guess.
_REMEDIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DIIS", {"level_shift": 0.0, "damp": 0.0, "diis_start_cycle": 1}),
    ("a level shift of 0.3 Ha", {"level_shift": 0.3, "damp": 0.0, "diis_start_cycle": 1}),
    ("damping by 0.5 for 15 cycles", {"level_shift": 0.0, "damp": 0.5, "diis_start_cycle": 15}),
)


class SCFError(RuntimeError):
    """A configuration without an energy: not converged, unstable, out of time, or two answers."""


@dataclass(frozen=True)
class Deadline:
    """The end of the wall time of one configuration, `limit` seconds after `start`."""

    limit: float | None
    start: float

    @classmethod
    def of(cls, settings: PySCFSettings) -> "Deadline":
        return cls(settings.seconds_limit, time.monotonic())

    def check(self) -> None:
        """Raises SCFError when it has passed."""
        if self.limit is not None and time.monotonic() - self.start > self.limit:
            raise SCFError(f"the wall-time limit of {self.limit:g} s has passed")


@dataclass(frozen=True)
class SCFSolution:
    """A converged field.

    Args:
        field: PySCF's mean-field object.
        energy: in Hartree.
        cycles: iterations on the fine grid, of all attempts.
        coarse_cycles: iterations on the coarse grid.
        remedy: what converged it.
    """

    field: Any
    energy: float
    cycles: int
    coarse_cycles: int
    remedy: str

    @property
    def density(self) -> np.ndarray:
        """`(spin, orbital, orbital)`: one matrix for closed shells, two for open ones."""
        density = _host(self.field.make_rdm1())
        return density.reshape(-1, *density.shape[-2:])


def on_gpu(settings: PySCFSettings) -> bool:
    """Whether gpu4pyscf is to be used.

    Raises:
        InputError: `device: gpu`, but gpu4pyscf or a CUDA device is missing.
    """
    if settings.device == "cpu":
        return False
    try:
        import cupy  # pyright: ignore[reportMissingImports]
        import gpu4pyscf  # noqa: F401 # pyright: ignore[reportMissingImports]

        found = cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # a broken driver raises whatever it likes
        found = False
    if settings.device == "gpu" and not found:
        raise InputError("device 'gpu': gpu4pyscf and a CUDA device are needed; pip install gpu4pyscf-cuda12x")
    return found


def make_molecule(elements: list[str], positions: np.ndarray, settings: PySCFSettings, spin: int) -> Any:
    """PySCF's molecule of atoms at `positions` (Å), as they stand: neither moved nor turned."""
    mol = pyscf("gto").Mole()
    mol.build(
        dump_input=False,
        parse_arg=False,
        verbose=0,
        atom=list(zip(elements, (positions / BOHR).tolist(), strict=True)),
        unit="Bohr",
        basis={element: settings.basis_of(element) for element in set(elements)},
        ecp={element: core for element in set(elements) if (core := settings.ecp_of(element))},
        charge=settings.charge,
        spin=spin,
        symmetry=False,
        max_memory=settings.memory_mb,
    )
    return mol


def solve(mol: Any, settings: PySCFSettings, deadline: Deadline, guess: np.ndarray | None = None) -> SCFSolution:
    """The converged field of a molecule, from `guess` `(spin, orbital, orbital)` or a superposition of atoms.

    Each attempt converges on a coarse grid first, and from there on the grid that was asked for. The first begins at
    `guess`; if it fails, those of `_REMEDIES` and a second-order solver begin at the superposition of atoms. An open
    shell is checked for internal instabilities, which are followed `stability_rounds` times.

    Raises:
        SCFError: nothing converged, an instability remains, or the time is up.
    """
    with _threads(settings):
        return _solve(mol, settings, deadline, guess)


def _solve(mol: Any, settings: PySCFSettings, deadline: Deadline, guess: np.ndarray | None) -> SCFSolution:
    field, counted = _field(mol, settings, settings.grid_level, deadline)
    fields, coarsely = [field], _Counter(deadline)
    if settings.grid_level > _COARSE_LEVEL:
        coarse, coarsely = _field(mol, settings, _COARSE_LEVEL, deadline)
        coarse.conv_tol = max(_COARSE_CONVERGENCE, settings.convergence)
        if settings.density_fitting:
            coarse.with_df = field.with_df
        fields.insert(0, coarse)
    core = field.get_hcore()
    for each in fields:
        each.get_hcore = lambda *_: core  # half a second for each grid otherwise, for six silver atoms
    start = None if guess is None else (guess[0] if mol.spin == 0 else guess)
    for remedy, attributes in _REMEDIES:
        for each in fields:
            each.set(**attributes).kernel(dm0=start)
            start = each.make_rdm1()
        if field.converged:
            way = remedy
            break
        start = None
    else:
        way = "second order"
        _second_order(field)
        if not field.converged:
            raise SCFError(
                f"not converged by DIIS, level shift, damping and second order, {settings.max_cycles} cycles each; "
                f"the last energy was {float(field.e_tot):.9f} Ha"
            )
    if mol.spin:
        _stabilise(field, settings.stability_rounds, deadline)
    energy = float(field.e_tot)
    if not np.isfinite(energy):
        raise SCFError(f"the energy is {energy}")
    return SCFSolution(field, energy, counted.cycles, coarsely.cycles, way)


def gradient(solution: SCFSolution, settings: PySCFSettings, deadline: Deadline) -> np.ndarray:
    """dE/dx `(particle, 3)` in Hartree/Bohr, core potentials and auxiliary basis included."""
    deadline.check()
    method = solution.field.nuc_grad_method()
    method.grid_response = settings.grid_response
    if not on_gpu(settings) and solution.field.mol.has_ecp():
        method.hcore_generator = _core_derivatives
    with _threads(settings):
        return _host(method.kernel())


def spectrum(solution: SCFSolution, settings: PySCFSettings, states: int, deadline: Deadline) -> np.ndarray:
    """Energies in Hartree and oscillator strengths of the lowest excitations, `(2, state)`.

    The orbitals are those of the fine grid. The kernel between them, which takes the time, is integrated on the coarse
    grid: of Ag6 with PBE and LANL2DZ ten excitations take a seventh of it and move by less than 0.01 eV, of water in a
    small basis three move by 0.012 eV.

    Raises:
        SCFError: not all of them converged, or the time is up.
    """
    deadline.check()
    field = solution.field.copy()
    field.grids = solution.field.grids.copy().reset()
    field.grids.level = min(_COARSE_LEVEL, settings.grid_level)
    response = field.TDDFT()
    response.nstates, response.verbose = states, 0
    with _threads(settings):
        response.kernel()
        energies, converged = _host(response.e), np.atleast_1d(_host(response.converged))
        if len(energies) < states or not converged.all():
            raise SCFError(f"{int(converged.sum())} of {states} excitations converged")
        strengths = _host(response.oscillator_strength())
    deadline.check()
    return np.stack([energies, strengths])


def _threads(settings: PySCFSettings) -> Any:
    return pyscf("lib").with_omp_threads(settings.threads)


class _Counter:
    """PySCF's callback: counts the cycles, and ends them at the deadline."""

    def __init__(self, deadline: Deadline):
        self.cycles, self._deadline = 0, deadline

    def __call__(self, _: Any) -> None:
        self.cycles += 1
        self._deadline.check()


def _field(mol: Any, settings: PySCFSettings, level: int, deadline: Deadline) -> tuple[Any, _Counter]:
    """A mean field on a grid of that level, and the counter of its cycles."""
    kind = pyscf("dft").RKS if mol.spin == 0 else pyscf("dft").UKS
    field = kind(mol, xc=settings.functional)
    if settings.density_fitting:
        field = field.density_fit(auxbasis=settings.auxiliary_basis)
    field.grids.level = level
    field.conv_tol, field.max_cycle = settings.convergence, settings.max_cycles
    counter = _Counter(deadline)
    field.chkfile, field.callback, field.max_memory = None, counter, settings.memory_mb
    if on_gpu(settings):
        return field.to_gpu(), counter
    field._numint = _integrator()()
    if settings.density_fitting and level == settings.grid_level:
        field.with_df.build()  # kept for all cycles; PySCF would otherwise do the integrals anew in each
    return field, counter


@functools.cache
def _integrator() -> Any:
    numint = pyscf("dft.numint")

    class FixedBlocks(numint.NumInt):
        """Blocks of a size of our own: PySCF's depends on the memory in use, and with it the last bits of a sum.

        Orbitals and their first derivatives on the grid are kept for all cycles where they fit a quarter of the memory.
        """

        _kept, _kept_on = (), None

        def block_loop(self, mol, grids, nao=None, deriv=0, max_memory=0, non0tab=None, blksize=None, buf=None):
            fresh = super().block_loop(mol, grids, nao, deriv, max_memory, non0tab, _BLOCK * numint.BLKSIZE, buf)
            if deriv != 1 or 4 * grids.size * mol.nao * 8e-6 > mol.max_memory / 4:
                return fresh
            if self._kept_on is not grids.coords:
                self._kept = tuple((orbitals.copy(order="K"), *rest) for orbitals, *rest in fresh)
                self._kept_on = grids.coords
            return iter(self._kept)

        def _gen_rho_evaluator(self, mol, dms, *arguments, **keywords):
            # PySCF would use the orbitals that a density carries along: four products of matrices in place of one
            return super()._gen_rho_evaluator(mol, np.asarray(dms), *arguments, **keywords)

    return FixedBlocks


def _second_order(field: Any) -> None:
    """Converge `field` by the co-iterative augmented Hessian from a fresh guess (Sun 2016)."""
    solver = field.newton()
    solver.kernel(dm0=field.get_init_guess())
    for name in ("converged", "e_tot", "mo_energy", "mo_coeff", "mo_occ"):
        setattr(field, name, getattr(solver, name))


def _stabilise(field: Any, rounds: int, deadline: Deadline) -> None:
    """Follow internal instabilities downhill (Seeger and Pople 1977).

    Raises:
        SCFError: unstable after so many rounds, or not converged on the way.
    """
    occupied = np.atleast_2d(_host(field.mo_occ)) > 0
    if not (occupied.any(1) & ~occupied.all(1)).any():
        return  # nothing to rotate, as in a hydrogen atom with one orbital
    for _ in range(rounds + 1):
        deadline.check()
        orbitals, _, stable, _ = field.stability(return_status=True)
        if stable:
            return
        field.kernel(dm0=field.make_rdm1(orbitals, field.mo_occ))
        if not field.converged:
            raise SCFError("not converged after following an instability of the open shell")
    raise SCFError(f"the open shell is unstable after following it {rounds} times")


def _core_derivatives(mol: Any) -> Callable[[int], np.ndarray]:
    """What PySCF's `hcore_generator` returns, with each atom's core potential differentiated once and not twice.

    By translation, the derivative for all potentials together is the sum of those of the atoms.
    """
    pulls = {}
    for atom in sorted({int(shell[0]) for shell in mol._ecpbas}):
        with mol.with_rinv_at_nucleus(atom):
            pulls[atom] = mol.intor("ECPscalar_iprinv", comp=3)
    on_orbitals = -mol.intor("int1e_ipkin", comp=3) - mol.intor("int1e_ipnuc", comp=3) - sum(pulls.values())
    charges, slices = mol.atom_charges(), mol.aoslice_by_atom()

    def derivative(atom: int) -> np.ndarray:
        with mol.with_rinv_at_nucleus(atom):
            on_nucleus = pulls.get(atom, 0.0) - charges[atom] * mol.intor("int1e_iprinv", comp=3)
        _, _, first, last = slices[atom]
        on_nucleus[:, first:last] += on_orbitals[:, first:last]
        return on_nucleus + on_nucleus.transpose(0, 2, 1)

    return derivative


def _host(array: Any) -> np.ndarray:
    """A copy in main memory of what may lie on a GPU."""
    return np.asarray(array.get() if hasattr(array, "get") else array)
