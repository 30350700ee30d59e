"""TokenGate: hard spending budgets for LLM agents, enforced in front of the provider.

The package is flat: a module is a noun and imports only modules of the rows below its own (see docs/explanation/
architecture.md and the contracts in pyproject.toml).
"""

__version__ = "0.1.0"
