"""Speed against the alternatives, as ratios measured in one process: ``python -m benchmarks [name ...]``."""
