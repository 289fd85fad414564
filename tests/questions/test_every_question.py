"""What every experiment must pass, on its tiny preset: ``pytest -k NAME`` runs the tests of one."""

import dataclasses
import functools
import json
import pickle

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import polars as pl
import polars.selectors as cs
import pytest
from matplotlib.figure import Figure

from experiments.cli import main as command
from experiments.cli.figures import draw
from experiments.cli.listing import list_everything
from experiments.kit import backends, fields, intervals, plots, points
from experiments.kit.findings import decided
from experiments.kit.presets import BACKEND_NAMES, PRESET_NAMES
from experiments.kit.shipped import shipped
from experiments.kit.terminal import console
from experiments.questions import questions
from gvgap_jax import policies, verifiers
from gvgap_jax.sweep import Grid, load, make_plan
from gvgap_jax.sweep.cells import batches
from tests.helpers import in_less_than_single_precision, products
from tests.kit.boxes import overlaps, without_unit
from tests.questions import made_up as results
from tests.questions.conftest import products_of

ON_TRANSFORMERS = [name for name, module in questions().items() if backends.has_transformer(module)]
ALL_NETWORKS = ("h1_information", "h3_optimisation", "h5_generalisation", "h6a_model_sizes")  # in their usual arms
SMALL = backends.TRANSFORMER._replace(
    policy=lambda tree, base: policies.mlp_policy(tree, 4, base),
    verifier=lambda tree: verifiers.mlp_verifier(tree, 4),
    critic=policies.tabular_critic,
)
every_question = pytest.mark.parametrize("name", list(questions()))
every_transformer = pytest.mark.parametrize("name", ON_TRANSFORMERS)


def tables_of(folder):
    """Records by table."""
    tables = sorted({path.name.rpartition("-")[0] for path in folder.glob("*.parquet")})
    return {table: load(folder, table) for table in tables}


@pytest.fixture(scope="module")
def listed():
    """What ``list`` prints, which takes as long for one experiment as for all."""
    with console.capture() as printed:
        list_everything()
    return printed.get()


@every_question
def test_it_has_every_preset_and_is_listed(listed, name):
    assert tuple(questions()[name].PRESETS) == PRESET_NAMES
    assert f" {name} " in listed


@every_question
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_every_field_says_what_it_is(name, backend):
    modules = backends.on_backend(questions(), backend)
    config = modules[name].Config if name in modules else questions()[name].Config
    unsaid = [
        field.name
        for field in dataclasses.fields(config)
        if not fields.meaning(config, field.name) and f" {field.name}: " not in (config.__doc__ or "")
    ]
    assert not unsaid


@pytest.mark.slow
@every_question
def test_records_are_tidy_and_complete(records, name):
    module, folder = questions()[name], records(name)
    plan = make_plan(name, module, module.PRESETS["tiny"])
    frames = tables_of(folder)
    assert set(frames) == {chunk.batch.table for chunk in plan.chunks}
    for table, frame in frames.items():
        assert len(frame) == sum(chunk.size for chunk in plan.chunks if chunk.batch.table == table)
        assert frame.is_duplicated().sum() == 0
        assert set(frame["status"]) == {"ok"}
    assert any(finding.control for finding in module.findings(frames))


@pytest.mark.slow
@every_question
def test_no_matrix_product_is_left_to_what_an_accelerator_does_by_default(records, name):
    """Its default is bfloat16 or TF32; a program that multiplies none, as the tree's of single tokens, has no lines."""
    lines = json.loads(products_of(records(name)).read_text())
    assert not in_less_than_single_precision(lines)


@pytest.mark.slow
@every_question
def test_a_second_run_computes_nothing_and_changes_nothing(records, name, capsys):
    folder = records(name)
    before = tables_of(folder)
    capsys.readouterr()
    command.main(["run", name, "--preset", "tiny", "--out", str(folder)])
    assert "0 cells computed" in " ".join(capsys.readouterr().out.split())
    assert all(load(folder, table).equals(frame) for table, frame in before.items())


@pytest.mark.slow
@every_question
def test_figures_with_captions_are_drawn_from_records_alone(records, name, tmp_path, monkeypatch):
    folder = records(name)
    monkeypatch.setattr(questions()[name], "run", None)
    paths = draw(name, folder, tmp_path)
    assert {path.suffix for path in paths} - {".csv"} == {".png", ".pdf"}
    figures = [path for path in paths if path.suffix != ".csv"]
    assert all(path.stat().st_size > 5000 for path in figures)
    assert all(path.name.startswith(tuple(questions()[name].CAPTIONS)) for path in figures)
    assert all("seeds" in caption for caption in questions()[name].CAPTIONS.values())


@pytest.mark.slow
@every_question
@pytest.mark.parametrize("width", plots.WIDTHS)
def test_letters_in_figures_do_not_overlap_and_axes_have_units(records, name, width):
    module = questions()[name]
    of_standard = results.records(module, dataclasses.replace(module.PRESETS["standard"], seeds=3))
    for frames in (tables_of(records(name)), of_standard):
        faultless(module, frames, width)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKEND_NAMES)
@every_question
def test_letters_in_figures_of_shipped_records_do_not_overlap(name, backend):
    folder = shipped(name, "standard", backend) if name in backends.on_backend(questions(), backend) else None
    if folder is None:
        pytest.skip("none are shipped")
    for width in plots.WIDTHS:
        faultless(backends.on_backend(questions(), backend)[name], points.records_of(folder), width)


def faultless(module, frames, width):
    """Every panel of every figure at a width: letters apart, units on all axes, pairs and seeds said."""
    with plots.at_width(width):
        for title, figure in points.figures(module, frames):
            if isinstance(figure, Figure):
                assert not overlaps(figure), title
                assert not without_unit(figure), title
                panels = [axis for axis in figure.axes if axis.get_subplotspec() is not None]
                words = [" ".join((axis.get_title(), figure.get_suptitle())).split() for axis in panels]
                assert all("seeds" in text for text in words), title
                plt.close(figure)


def made_up(run):
    """A ``run`` of the same columns with made-up numbers: what there is to compile is lowered, and no more."""

    def fake(program, cell):
        shapes = {name: jax.ShapeDtypeStruct(values.shape, values.dtype) for name, values in cell.items()}
        lowered = jax.jit(functools.partial(run, program)).lower(shapes)
        lines = products(lowered)
        assert lines
        assert not in_less_than_single_precision(lines), "as in the tree's programs"
        columns = lowered.out_info
        noise = jax.random.uniform(jax.random.fold_in(jax.random.key(0), cell["seed"]), (len(columns),))
        return {
            name: jnp.array(True) if column.dtype == bool else 1 + noise[number]
            for number, (name, column) in enumerate(columns.items())
        }

    return fake


@pytest.mark.slow
@every_transformer
def test_what_transformers_record_gives_findings_and_figures(name, tmp_path, monkeypatch):
    if name != "h6c_verifier_order":  # one traces transformers, the others networks that are traced faster
        monkeypatch.setattr(backends, "TRANSFORMER", SMALL)
    module = backends.on_transformer(questions()[name])
    monkeypatch.setattr(module, "run", made_up(module.run))
    monkeypatch.setattr(backends, "on_transformer", lambda _: module)
    folder = tmp_path / name
    command.main(["run", name, "--backend", "transformer", "--preset", "tiny", "--out", str(folder)])
    rows = module.findings(tables_of(folder))
    assert any(row.control for row in rows)
    assert name in ALL_NETWORKS or any("own backbone" in row.claim or "same backbone" in row.claim for row in rows)
    paths = draw(name, folder, tmp_path, "transformer")
    assert all("transformer" in path.name for path in paths)
    assert {path.suffix for path in paths} >= {".png", ".pdf"}


@every_transformer
def test_a_transformer_has_a_plan_of_its_own_and_the_tree_keeps_its_own(name):
    module = questions()[name]
    grid = module.TRANSFORMER_PRESETS["quick"]
    trees = make_plan(name, module, grid if module.Config is backends.on_transformer(module).Config else Grid())
    plan = make_plan(backends.named(name, "transformer"), backends.on_transformer(module), grid)
    assert not {chunk.name for chunk in plan.chunks} & {chunk.name for chunk in trees.chunks}
    assert plan.run == backends.on_transformer(module).run, "compiled programs are kept by it"
    assert pickle.loads(pickle.dumps(plan)).run == plan.run
    assert trees.run is module.run
    assert tuple(module.TRANSFORMER_PRESETS) == PRESET_NAMES


@every_question
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_no_two_presets_share_a_seed_and_each_has_those_that_verdicts_need(name, backend):
    module = backends.on_backend(questions(), backend).get(name, questions()[name])
    seeds = [range(grid.first_seed, grid.first_seed + grid.seeds) for grid in module.PRESETS.values()]
    assert sum(map(len, seeds)) == len(set().union(*seeds))
    least = max(rule.least for rule in (intervals.MEAN, intervals.GEOMETRIC, intervals.RATIO))
    assert all(grid.seeds >= least for preset, grid in module.PRESETS.items() if preset != "tiny")
    (first,) = {batch.columns["seed"].min() for batch in batches(module.Config, module.cells, module.PRESETS["quick"])}
    assert first == module.PRESETS["quick"].first_seed


@every_question
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_a_field_that_is_only_passed_on_is_planned_as_if_it_was_walked(name, backend, monkeypatch):
    module = backends.on_backend(questions(), backend).get(name, questions()[name])
    tiny = module.PRESETS["tiny"].axes
    numbers = {field.name: tiny.get(field.name, (field.default,)) for field in dataclasses.fields(module.Config)}
    numbers = {field: values for field, values in numbers.items() if isinstance(values[0], float)}
    for field, values in numbers.items():
        grid = Grid({**tiny, field: (values[0], 0.75 * values[0] + 0.05, values[0] / 2 + 0.03)}, seeds=2)
        with monkeypatch.context() as patched:
            quick = [chunk.name for chunk in make_plan(name, module, grid).chunks]
            patched.setattr("gvgap_jax.sweep.cells.can_be_passed", lambda values: False)
            assert quick == [chunk.name for chunk in make_plan(name, module, grid).chunks], field


ACROSS_SEEDS = (
    "few_pairs",
    "phase_diagram",
    "rival_overoptimisation",
)  # some of their statistics read the other seeds too


@pytest.mark.slow
@every_question
def test_a_record_that_is_not_ok_decides_nothing(records, name):
    """Garbage in the rows of a seed that is marked changes no estimate, and is counted."""
    if name in ACROSS_SEEDS:
        pytest.skip("their statistics of one seed read the others")
    frames = tables_of(records(name))
    other = pl.col("seed") == 1
    numbers = cs.float() & ~cs.by_name(*fields.AXES, require_all=False)
    poisoned = {
        table: frame.with_columns(
            pl.when(other).then(-1e6).otherwise(numbers).name.keep(),
            status=pl.when(other).then(pl.lit("not converged")).otherwise("status"),
        )
        for table, frame in frames.items()
    }
    alone = {table: frame.filter(~other) for table, frame in frames.items()}
    for found, wanted in zip(*(questions()[name].findings(each) for each in (poisoned, alone)), strict=True):
        assert found.interval.estimate == pytest.approx(wanted.interval.estimate, nan_ok=True), found.claim
        assert found.interval.seeds == wanted.interval.seeds <= 1
        assert found.interval.excluded > 0
        assert "of its records excluded" in found.remark


@every_question
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_every_setting_in_the_records_can_be_named_by_an_estimand(name, backend):
    module = backends.on_backend(questions(), backend).get(name, questions()[name])
    assert {field.name for field in dataclasses.fields(module.Config)} <= fields.AXES | fields.WORDS


@pytest.mark.slow
@every_question
def test_one_finding_is_primary_and_what_is_at_a_bound_has_a_margin(records, name):
    found = decided(questions()[name].findings(tables_of(records(name))))
    claims = [finding for finding in found if not finding.control]
    assert [finding.primary for finding in claims] == [True, *[False] * len(claims)][: len(claims)]
    assert all(finding.margin > (finding.unit == "times") for finding in found if finding.direction == "at")
    assert all(finding.undecided and "a verdict needs" in finding.verdict for finding in found)
