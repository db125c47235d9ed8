"""What several samplers share."""


def between(low, high, u):
    """Returns numbers in [low, high) out of uniform ones in [0, 1)."""
    return low + (high - low) * u
