"""Trainers: read a published dataset version, write a trained model and what it achieves."""

import lazy_loader

from prefactory.extras import missing

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import what is asked for; without its packages, say which extra brings them."""
    try:
        return _attribute(name)
    except ModuleNotFoundError as error:
        if (lacking := missing(error, "train")) is None:
            raise
        raise lacking from error
