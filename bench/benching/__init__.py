"""What the benchmarks share: shapes, the machine's peak, cheap checks, and the peers' side."""
