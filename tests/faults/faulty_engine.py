"""An engine plug-in that fails on purpose, for a stated share of all geometries; importable by workers."""

import hashlib
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from particlegen.energy import TorchPairEnergy
from particlegen.energy.cards import load_potential
from particlegen.energy.provider import Wrapper


class FaultyEnergy(Wrapper):
    """Pairs, but for the faults: `raise`, `hang`, `die`, `nan`, `minus_inf`, `silent`, `shape`, `nothing`.

    Whether a geometry is hit is decided by its bytes, so it does not depend on order, batches or workers. While the
    file `mended` exists nothing is hit. Every geometry that was answered is noted in the file `answered`.
    """

    differentiable = False

    def __init__(self, system, settings):
        super().__init__(TorchPairEnergy(system, load_potential(settings["card"], None)[1]))
        self._fault, self._share, self._only = settings["fault"], settings["share"], settings.get("only", "all")
        self._folder = Path(settings["folder"])

    @property
    def name(self):
        return "faulty"

    @property
    def settings(self):
        return {"engine": "faulty"}

    def evaluate(self, positions, want=("energy",)):
        found = self._provider.evaluate(positions, want)
        keys = [hashlib.sha256(x.tobytes()).hexdigest() for x in positions.detach().cpu().double().numpy()]
        away = (self._folder / "mended").exists() or (self._only == "energies") == ("forces" in want)
        away = away if self._only != "all" else (self._folder / "mended").exists()
        hit = torch.tensor([not away and int(key[:8], 16) < self._share * 2**32 for key in keys], dtype=torch.bool)
        with (self._folder / "answered").open("a") as file:
            file.writelines(f"{key} {','.join(want)}\n" for key, bad in zip(keys, hit.tolist(), strict=True) if not bad)
        return self._broken(found, hit) if hit.any() else found

    def _broken(self, found, hit):
        if self._fault == "raise":
            raise RuntimeError("the engine crashed")
        if self._fault == "hang":
            time.sleep(600)
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "nothing":
            return None
        parts = {"energy": found.energy, "forces": found.forces, "ok": found.ok, "reasons": found.reasons}
        if self._fault == "nan":
            parts["energy"] = found.energy.masked_fill(hit, torch.nan)
        elif self._fault == "minus_inf":
            parts["energy"] = found.energy.masked_fill(hit, -torch.inf)
        elif self._fault == "silent":  # failed, without a reason, and with an energy that is far off
            parts |= {"energy": found.energy - 1e3 * hit, "ok": found.ok & ~hit}
        elif self._fault == "shape":
            parts["energy"] = torch.cat([found.energy, found.energy[:1]])
        return SimpleNamespace(virial=None, iterations=None, **parts)


def make(system, settings):
    return FaultyEnergy(system, settings)
