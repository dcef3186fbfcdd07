"""Scores of models: rewards, likelihoods, implicit rewards, process rewards."""
