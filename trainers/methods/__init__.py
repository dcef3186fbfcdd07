"""Methods of training a transformer: for each, how its settings become a trainer of TRL."""
