"""Models under Keras' names."""

from fastbn.models.model import Model
from fastbn.models.sequential import Sequential

__all__ = ["Model", "Sequential"]
