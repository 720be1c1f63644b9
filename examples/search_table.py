"""Searches a table of measured networks: python search_table.py [TABLE.npz ERROR_COLUMN COST_COLUMN].

Without arguments a table is made up: 3 places, each with one of 4 operations.
"""

import itertools
import sys

import numpy as np

from brickyard.search import run
from brickyard.search.adapters.tabular import Table

if len(sys.argv) == 4:
    table = Table.load(sys.argv[1]).measuring(error=sys.argv[2], cost=sys.argv[3])
else:
    ops = np.array(list(itertools.product(range(4), repeat=3)))
    error, cost = 30 - ops @ [4, 3, 2] + 5 * (ops[:, 0] == ops[:, 1]), (ops**2).sum(1)
    table = Table(ops, {"error": error, "cost": cost}, op_names=["none", "skip", "conv1x1", "conv3x3"])
result = run(table, objectives=["error", "min:cost"], evaluations=min(20, table.space.size), seed=0)
for point in result.front:
    print(f"error {point.metrics['error']:.2f}, cost {point.metrics['cost']:.2f}: {[*point.config.values()]}")
