"""How long something took or will take, as readers are told it."""


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: 42 s, 3.1 min, 1.5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
