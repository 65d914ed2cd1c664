"""The comparison with other frameworks: works, worker processes, sessions of interleaved pairs, report."""
