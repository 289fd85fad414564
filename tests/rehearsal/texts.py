"""Programs as text, without where in the source each line comes from."""

import re


def plain(text: str) -> str:
    """A StableHLO module as ``Lowered.as_text`` shows it, from one with locations."""
    found, depth, quoted = [], 0, False
    for piece in re.split(r'( loc\(|"|\(|\))', "\n".join(line for line in text.splitlines() if line[:4] != "#loc")):
        if depth:  # inside of a location, whose names may hold brackets
            quoted ^= piece == '"'
            depth += 0 if quoted else piece.endswith("(") - (piece == ")")
        elif piece == " loc(":
            depth = 1
        else:
            found.append(piece)
    return "".join(found).strip()
