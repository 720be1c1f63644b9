"""Searches a module with the interface of once-for-all: two stages of one to three layers.

python search_ofa.py
"""

import torch
from torch import nn

from brickyard.search import run
from brickyard.search.adapters.ofa import OnceForAll


class TinyOnceForAll(nn.Module):
    """Two stages of up to three linear layers of 16 units, of which each layer may use fewer in between."""

    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(16, 32) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(6))
        self.second = nn.ModuleList(nn.Linear(32, 16) for _ in range(6))
        self.set_active_subnet(e=[2] * 6, d=[3, 3])

    def set_active_subnet(self, e=None, d=None):
        """Take an expand ratio for each layer and a depth for each stage."""
        self.expand, self.depth = list(e), list(d)

    def get_active_subnet(self, preserve_weight=True):
        """Build what is active out of plain modules."""
        layers = []
        for place in [*range(self.depth[0]), *range(3, 3 + self.depth[1])]:
            width = 16 * self.expand[place]
            first, norm, second = nn.Linear(16, width), nn.BatchNorm1d(width), nn.Linear(width, 16)
            if preserve_weight:
                first.weight.data, first.bias.data = (p.data[:width] for p in self.first[place].parameters())
                second.weight.data = self.second[place].weight.data[:, :width]
                second.bias.data = self.second[place].bias.data
            layers.append(nn.Sequential(first, norm, nn.ReLU(), second))
        return nn.Sequential(*layers)


torch.manual_seed(0)
network, inputs = TinyOnceForAll(), torch.randn(64, 16)
network.set_active_subnet(e=[2] * 6, d=[3, 3])
whole = network.get_active_subnet()(inputs).detach()


@torch.no_grad()
def evaluate(subnet):
    """Compare with the whole network, and count."""
    error = float((subnet(inputs) - whole).square().mean())
    return {"error": error, "parameters": sum(p.numel() for p in subnet.parameters())}


found = OnceForAll(
    network,
    values={"e": [[1, 2]] * 6, "d": [[1, 2, 3]] * 2},
    evaluate=evaluate,
    calibration=[inputs],
    depth="d",
)
result = run(found, objectives=["error", "parameters"], evaluations=20, seed=0)
for point in result.front:
    print(f"error {point.metrics['error']:.4f}, {point.metrics['parameters']:.0f} parameters")
smallest = min(result.front, key=lambda point: point.metrics["parameters"])
print(f"the smallest is a {type(found.extract(smallest.config)).__name__}: {found.lists(smallest.config)}")
