"""Glass workflows that sample with noise: runs, resumption, weights to share, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import particlegen
from particlegen.settings import InputError

TINY = Path(__file__).parent / "workflows" / "tiny.yaml"
NOISY = {"network.denoiser": True, "interpolant.noise": "quadratic", "generation.likelihood": "path"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("noisy") / "run", set=NOISY)


def test_a_run_with_noise_weighs_its_paths(finished):
    results = finished.results
    assert results["generated"]["n_samples"]["value"] == 60
    assert results["free_energy"]["excess"]["value"] is not None
    assert results["generated"]["forward_ess"]["value"] is not None
    flow = particlegen.run(
        finished.folder.workflow_file, out=finished.folder.path.parent / "flow", set={"generation.likelihood": "exact"}
    )
    assert np.array_equal(flow.read("reference", "energy"), finished.read("reference", "energy"))
    assert not np.array_equal(flow.positions(), finished.positions())


def test_weights_with_a_denoiser_are_shared_for_their_own_noise(finished, tmp_path):
    finished.export(tmp_path / "mine.yaml", to="network")
    content = yaml.safe_load(TINY.read_text()) | {"training": {"pretrained": "mine.yaml"}}
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(content))
    run = particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run", set=NOISY)
    assert np.array_equal(run.positions(), finished.positions())
    for wrong, said in (
        ({"interpolant.noise_amplitude": 0.2}, "key 'interpolant': .*noise_amplitude: 0.1"),
        ({"interpolant.noise": "root"}, "key 'interpolant': .*noise: 'quadratic'"),
        ({"network.denoiser": False, "generation.likelihood": "exact"}, "key 'network': .*denoiser: True"),
    ):
        with pytest.raises(InputError, match=said):
            particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "other", set=NOISY | wrong)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"network.denoiser": False}, "needs a network that knows the noise"),
        ({"interpolant.noise": "none"}, "'interpolant.noise' is none"),
        ({"generation.solver": "dopri5"}, "has no path weights"),
        ({"generation.path.kernel": "plain", "generation.path.diffusion": 0}, "need a 'diffusion' above 0"),
        ({"generation.path.kernel": "langevin"}, "generation.path.kernel"),
    ],
)
def test_what_cannot_be_sampled_with_noise_is_refused(tmp_path, wrong, said):
    with pytest.raises(InputError, match=said):
        particlegen.run(TINY, out=tmp_path / "run", set=NOISY | wrong)
    assert not (tmp_path / "run").exists()
