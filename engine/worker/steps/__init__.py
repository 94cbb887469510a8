"""The step handlers, one module for each `StepName`."""

from importlib import import_module

from guestledger.engine.domain.due import StepName
from guestledger.engine.worker.step import Handler, Services

Handlers = dict[StepName, Handler]


def load_handlers(services: Services) -> Handlers:
    """A handler for each step. Raises `ImportError` if a step's module is missing."""
    return {step: import_module(f"{__name__}.{step}").Step(services) for step in StepName}
