"""llama.cpp on the cores of this machine."""
