"""Several penalties as one."""

from metalearn.core import InputError, Penalty


def together(*penalties: Penalty) -> Penalty:
    """The sum of penalties; its state is the tuple of theirs, and each is observed and consolidated as it would be.

    Raises `InputError` without a penalty.
    """
    if not penalties:
        raise InputError("together needs at least one penalty")

    def init(params):
        return tuple(p.init(params) for p in penalties)

    def value(params, states, batch, key):
        return sum(p.value(params, s, batch, key) for p, s in zip(penalties, states, strict=True))

    def observe(states, **seen):
        return tuple(s if p.observe is None else p.observe(s, **seen) for p, s in zip(penalties, states, strict=True))

    def consolidate(states, params, data, key):
        return tuple(
            s if p.consolidate is None else p.consolidate(s, params, data, key)
            for p, s in zip(penalties, states, strict=True)
        )

    return Penalty(init, value, observe, consolidate)
