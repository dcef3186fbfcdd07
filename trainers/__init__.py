"""Trainers: read a published dataset version, write a trained model and what it achieves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
