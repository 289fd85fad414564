"""``compare``: what it says of two folders, and of folders that it cannot compare."""

import shutil

import pytest

from experiments.cli import folders, main
from gvgap_jax.runtime import files
from tests.cli.test_damage import text_of
from tests.report import toy_questions


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        toy_questions.install(patch, {"toy": toy_questions.toy(), "other": toy_questions.toy()})
        patch.setattr(folders.console, "_width", 400)
        yield


@pytest.fixture(scope="module")
def made(registered, tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    main.main(["run", "toy", "--preset", "quick", "--out", str(root / "a")])
    main.main(["run", "toy", "--preset", "paper", "--out", str(root / "b")])
    main.main(["run", "toy", "--preset", "quick", "--grid.base", "0.5", "7.5", "--out", str(root / "c")])
    main.main(["run", "other", "--preset", "quick", "--out", str(root / "other")])
    return root


def test_a_folder_and_itself(made, capsys):
    printed = text_of(capsys, "compare", made / "a", made / "a")
    assert "The same plan, made by the same versions." in printed
    assert "even 0 0 2 within seeds" in printed
    assert "value 0 of 2" in printed
    assert "squares are large" in printed


def test_more_seeds_and_other_cells(made, capsys):
    printed = text_of(capsys, "compare", made / "a", made / "b")
    assert "seeds 3 4" in printed
    assert "base" not in printed.partition("cells")[0]
    printed = text_of(capsys, "compare", made / "a", made / "c")
    assert "base 0.5, 2000 0.5, 7.5" in printed
    assert "even 1 1 1 within seeds" in printed


def test_an_experiment_that_has_changed_is_beyond_noise(made, capsys, tmp_path):
    shutil.copytree(made / "a", tmp_path / "changed")
    for path in (tmp_path / "changed").glob("even-*.parquet"):
        records, made_by = files.read_with_maker(path)
        files.save(path.parent, path.stem, records.with_columns(value=records["value"] + 1), made_by)
    printed = text_of(capsys, "compare", made / "a", tmp_path / "changed")
    assert "value at base 0.5 1 of 1 2.917 3.917 1 to 1" in printed  # numbers of the other cell are too large to count


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (("a", "nowhere"), "nowhere holds no records. Run the experiment first, or name its --out folder."),
        (("a", "other"), "holds records of toy, and"),
        (("a", "half"), "is not complete: 1 of 2 chunks are missing."),
        (("unknown", "a"), "there is no experiment 'tay'"),
    ],
)
def test_folders_that_cannot_be_compared_get_one_sentence(made, capsys, tmp_path, pair, sentence):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copytree(made / "a", tmp_path / "half")
    files.remove(next((tmp_path / "half").glob("odd-*.parquet")))
    shutil.copytree(made / "a", tmp_path / "unknown")
    manifest = tmp_path / "unknown/manifest.json"
    files.write(manifest, manifest.read_bytes().replace(b'"toy"', b'"tay"', 1))
    printed = text_of(capsys, "compare", *(tmp_path / name for name in pair), status=2)
    assert printed.startswith("error: ")
    assert sentence in printed
