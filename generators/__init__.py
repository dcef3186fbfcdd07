"""Steps that make rows: answers, pairs, and prompts. Names load lazily."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
