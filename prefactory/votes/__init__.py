"""What people's votes on pairs come to: labels with intervals, people, judges held against them.

Everything is about **sides as stored**: a vote of +1 is for the first side of a pair (its chosen
one), -1 for the second, whichever of them stood first on the page.
"""
