"""The point group D6 in primitive vectors that enclose 60 degrees: of the triangular, honeycomb and kagome lattices."""

import math

ROTATION = ((1, 1), (-1, 0))
MIRROR = ((0, 1), (1, 0))
HEXAGONAL = (ROTATION, MIRROR)

HEIGHT = math.sqrt(3) / 2  # of an equilateral triangle of edge 1
