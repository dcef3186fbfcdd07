from .page import SAMPLES as SAMPLES
from .page import build as build
