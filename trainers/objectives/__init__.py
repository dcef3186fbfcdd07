"""Several objectives at once: a head for each, gradients that disagree, what can be reached."""
