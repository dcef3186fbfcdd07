"""The flow that workers of a pool run.

Prefect puts the folder of this file first on the path: a folder with more in it would hide packages
of ours that have the name of one there (`pipelines/review` hid `review`).
"""

from pipelines.flows import curate

__all__ = ["curate"]
