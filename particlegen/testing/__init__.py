"""Contract tests, shipped so that a plug-in's author can hold it to what the package relies on.

from particlegen.testing import check_energy_provider

def test_contract():
    check_energy_provider(MyEngine(system), positions)
"""

from particlegen.testing.clauses import ContractViolation
from particlegen.testing.contracts import check_energy_provider, check_flow, check_velocity_network
from particlegen.testing.kernels import check_kernel

__all__ = ["ContractViolation", "check_energy_provider", "check_flow", "check_kernel", "check_velocity_network"]
