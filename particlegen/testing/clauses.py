"""How a contract test says that a clause is broken."""

from torch import Tensor

__all__ = ["ContractViolation", "close", "require"]


class ContractViolation(AssertionError):
    """An implementation breaks a contract; the message says which clause and by how much."""


def require(condition: bool, clause: str) -> None:
    """Raises ContractViolation unless the condition holds."""
    if not condition:
        raise ContractViolation(clause)


def close(found: Tensor, expected: Tensor, rtol: float, clause: str) -> None:
    """Requires that arrays agree, relative to the largest expected value or 1."""
    scale = expected.abs().max().clamp_min(1.0)
    worst = float(((found - expected).abs() / scale).max())
    require(worst <= rtol, f"{clause} (by {worst:.2g}, relative)")
