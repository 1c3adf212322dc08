"""SIGTERM and Ctrl-C: a last checkpoint and exit code 130, in every stage; a second one ends the run at once."""

import json
import os
import random
import signal
from types import SimpleNamespace

import pytest
import torch

import particlegen
from faults.cases import CASES, GLASS
from faults.comparison import compare
from faults.kills import finished, killed_by_stage, stages
from particlegen.energy import Counted, LabelStore, Ledger, SystemSettings, TorchPairEnergy, build_system
from particlegen.energy.provider import Wrapper
from particlegen.io.checkpoint import load_checkpoint
from particlegen.workflow import Interrupted
from particlegen.workflow.job import Job, StopSignal


def spent(folder):
    calls = json.loads((folder / "results.json").read_text())["spent"]["calls"]
    return {engine: each["value"] for engine, each in calls.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_signal_in_every_stage_costs_little_and_changes_nothing(whole, tmp_path, name):
    case, folder, other = CASES[name], tmp_path / "run", whole(name)
    rng, number = random.Random(3), signal.SIGTERM if name in ("glass", "learned") else signal.SIGINT
    ends = killed_by_stage(case, folder, stages(other), rng, most=9, signals=(number,))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if line.endswith("}")]
    told = [event for event in events if event["kind"] == "interrupted"]
    # Before the first stage there may be no journal to tell it to.
    assert sum(end.stage != "start" for end in ends) <= len(told) <= len(ends)
    assert all(f"resume {folder}" in event["message"] for event in told)
    assert len({end.stage for end in ends} - {"start"}) >= 3
    compare(finished(case, folder), other)
    # Nothing that was finished is done again, and no label is paid for twice. What a learned potential answered may be:
    # a signal between two labels does not wait for the rest of a round.
    for engine, calls in spent(other).items():
        assert spent(folder)[engine] <= calls * (1.5 if engine.startswith("learned") else 1.0), engine


def test_a_second_signal_ends_the_run_at_once_and_loses_nothing(whole, tmp_path):
    """Not even the checkpoint is waited for that the first one asks for."""
    workflow, _ = GLASS.written(tmp_path)
    folder, sent = tmp_path / "run", []

    def listener(event):
        if event.stage == "training" and event.kind == "progress" and not sent:
            for number in (signal.SIGTERM, signal.SIGINT):
                sent.append(number)
                os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt) as caught:
        particlegen.run(workflow, out=folder, listener=listener)
    assert len(sent) == 2 and not isinstance(caught.value, Interrupted)
    assert load_checkpoint(folder / "checkpoints", "training") is None
    compare(finished(GLASS, folder), whole("glass"))


def test_a_signal_ends_a_run_before_its_next_label_and_keeps_those_that_are_there(tmp_path):
    """Labels may take an hour each: the rest of a round is not waited for."""
    built = build_system(SystemSettings(card="lj_cluster"))

    class Engine(Wrapper):
        differentiable = False
        asked = 0

        def evaluate(self, positions, want=("energy",)):
            self.asked += len(positions)
            if self.asked == 4:
                job.stop(signal.SIGTERM, None)
            return self._provider.evaluate(positions, want)

    engine, told = Engine(TorchPairEnergy(built.system, built.potential)), []
    job = SimpleNamespace(stop=StopSignal(), emit=told.append, slots=1, resumed=False)
    job.folder = SimpleNamespace(path="there")
    job.workflow = SimpleNamespace(energy=SimpleNamespace(chunk=2))
    job.check = lambda stage: Job.check(job, stage)
    job.counted = lambda provider, stage: Counted(provider, Ledger(), stage)
    kept = Job.stored(job, engine, "minima", LabelStore(tmp_path / "labels.db"))
    x = torch.randn(10, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.raises(Interrupted, match="minima stopped by a signal; go on with: particlegen resume there"):
        kept.evaluate(x)
    assert engine.asked == 4 and [event.kind for event in told] == ["interrupted"]
    job.stop = StopSignal()
    assert kept.evaluate(x).ok.all() and engine.asked == 10
