"""headway plans, simulates and proves LLM inference fleets."""

__version__ = "0.1.0"
