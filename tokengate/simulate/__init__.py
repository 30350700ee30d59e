"""The simulated provider: an OpenAI-shaped server that costs nothing, for demonstrations, tests and benchmarks.

It answers as a provider would, misbehaves on request in every way that providers have been seen to, and keeps books of
what it really generated: the truth that the gate's own ledger is compared with. It never calls anything, never reads a
gate's module, and is no part of the gate.
"""

from tokengate.simulate.app import create_app, run
from tokengate.simulate.options import CapRule, Fault, FaultKind, SimulateOptions

__all__ = ["CapRule", "Fault", "FaultKind", "SimulateOptions", "create_app", "run"]
