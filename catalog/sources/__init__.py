"""Readers of preference data: any file, folder, URL or hub dataset to one of our three tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
