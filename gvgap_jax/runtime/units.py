"""Units, as numbers of bytes and of seconds."""

MIB, GIB = 2**20, 2**30
HOUR = 3600.0


def readable(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"
