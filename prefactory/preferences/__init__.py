"""What labels of pairs teach and how far they can be trusted: fits, errors, verdicts, estimates.

Everything here is on **differences as labelled**: a row is the features of the chosen answer minus
those of the rejected one, and a margin below 0 says that the scorer disagrees with the label.
"""
