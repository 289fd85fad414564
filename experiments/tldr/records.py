"""The tables that evaluations left, of which data and options they are, and what keeps them from an answer."""

from typing import Any, NamedTuple

import polars as pl

from experiments.tldr.settings import ONLINE_FROM, TABLES
from gvgap_jax.runtime.files import Folder, chunk_file, read_with_maker
from gvgap_jax.runtime.messages import differences, first_few

Records = dict[str, pl.DataFrame]


class Evaluated(NamedTuple):
    """All seeds of a run that have been evaluated.

    Attributes:
      tables: the rows of all seeds.
      makers: what made each table, by seed and table, as its file says.
      left_out: seeds of which a table is missing.
    """

    tables: Records
    makers: dict[str, dict[str, Any]]
    left_out: list[str]

    @property
    def maker(self) -> dict[str, Any]:
        """What made the answers of the first seed."""
        return next(iter(self.makers.values()))["answers"]

    @property
    def described(self) -> dict[str, str]:
        """The data of the first seed's tables, by digest, and its stages, by key; nothing where files do not say."""
        stages = {name: each for maker in next(iter(self.makers.values())).values() for name, each in _stages(maker)}
        data = {name: value for each in stages.values() for name, value in each["data"].items()}
        found = {
            "data": ", ".join(f"{name} {value[:12]}" for name, value in data.items()),
            "stages": ", ".join(f"{name} {each['key']}" for name, each in stages.items()),
        }
        return found if stages else {}

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the tables."""
        old = "An earlier version made these tables: they do not say of which data and stages they are."
        lacking = f"Not all tables of {first_few(self.left_out)} are there; left out: --stage evaluate makes them."
        return ([lacking] if self.left_out else []) + ([] if self.described else [old])


def folders(root: Folder) -> list[Folder]:
    """The runs below a folder of results that have an evaluated seed."""
    return sorted({path.parent.parent.parent for path in root.glob(f"tldr*/seed-*/evaluate/{TABLES[-1]}.parquet")})


def evaluated(folder: Folder) -> Evaluated:
    """The tables of all seeds of a run.

    Raises:
      ValueError: no seed has been evaluated, a table is damaged, or tables are of different data or options.
    """
    places = sorted(folder.glob("seed-*/evaluate"))
    complete = [each for each in places if all(chunk_file(each, table).exists() for table in TABLES)]
    if not complete:
        raise ValueError(f"{folder} has no evaluated seed: python -m experiments run tldr --stage evaluate makes one.")
    read = {
        each.parent.name: {table: read_with_maker(chunk_file(each, table)) for table in TABLES} for each in complete
    }
    makers = {seed: {table: maker for table, (_, maker) in tables.items()} for seed, tables in read.items()}
    _check_alike(folder, makers)
    tables = {table: pl.concat([tables[table][0] for tables in read.values()]) for table in TABLES}
    return Evaluated(tables, makers, [each.parent.name for each in places if each not in complete])


def unanswered(tables: Records) -> list[str]:
    """Why tables give no verdict on the paper's claim, one sentence each."""
    arms, found = set(tables["answers"]["arm"]), []
    missing = sorted({f"online_from_{start}" for start in ONLINE_FROM} - arms)
    if missing:
        found.append(f"Its online methods are missing ({', '.join(missing)}): --stage all makes them.")
    if "gold" in set(tables["verdicts"]["judge"]):
        found.append("Its world is a toy, and so is the gold verifier that knows what is good there.")
    if tables["answers"]["seed"].n_unique() == 1:
        found.append("It is one training run, which says nothing of other seeds: --seeds 5 makes more.")
    return found


def _stages(maker: dict[str, Any]):
    return maker.get("stages", {}).items()


def _check_alike(folder: Folder, makers: dict[str, dict[str, Any]]) -> None:
    """ValueError unless the tables of each seed belong together, and all seeds differ in their seed alone."""
    for seed, tables in makers.items():
        keys: dict[str, str] = {}
        for table, maker in tables.items():
            for stage, each in _stages(maker):
                if keys.setdefault(stage, each["key"]) != each["key"]:
                    raise ValueError(
                        f"{folder / seed / 'evaluate'}: {table} and another table are of different runs ({stage} is "
                        f"{each['key']} and {keys[stage]}). Run --stage evaluate again."
                    )
    (first, wanted), *others = ((seed, _but_for_the_seed(tables)) for seed, tables in makers.items())
    for seed, found in others:
        differing = differences(wanted, found)
        if differing:
            raise ValueError(
                f"{folder}: {first} and {seed} are of different data or options ({first_few(differing, '; ')}): run "
                f"both with the same ones, or move {seed} away."
            )


def _but_for_the_seed(tables: dict[str, Any]) -> dict[str, Any]:
    """What tables are made of, without their seed and the keys, which follow from all of it."""
    return {
        stage: {"data": each["data"], "options": {name: of for name, of in each["options"].items() if name != "seed"}}
        for maker in tables.values()
        for stage, each in _stages(maker)
    }
