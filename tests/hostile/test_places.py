"""What stands in data/custom under a dataset's name and is none, or lies elsewhere; and names that are odd."""

import os
import shutil

import pytest

from tests.hostile.made import good_lines
from tests.hostile.pipeline import Outcome, Project

pytestmark = pytest.mark.timeout(30)

NAME = "x.jsonl"


def link_out(project: Project) -> None:
    outside = project.folder.with_name("outside.jsonl")
    outside.write_bytes(good_lines())
    (project.custom / NAME).symlink_to(outside)


def link_of_links_out(project: Project) -> None:
    link_out(project)
    (project.custom / NAME).rename(project.custom / "between.jsonl")
    (project.custom / NAME).symlink_to("between.jsonl")


def link_to_itself(project: Project) -> None:
    (project.custom / NAME).symlink_to(NAME)


def link_to_nothing(project: Project) -> None:
    (project.custom / NAME).symlink_to("absent.jsonl")


def link_to_a_device(project: Project) -> None:
    (project.custom / NAME).symlink_to("/dev/zero")


def a_folder(project: Project) -> None:
    (project.custom / NAME).mkdir()


def a_pipe(project: Project) -> None:
    os.mkfifo(project.custom / NAME)


def nothing(_: Project) -> None:
    """No file of the name."""


PLACES = [link_out, link_of_links_out, link_to_itself, link_to_nothing, link_to_a_device, a_folder, a_pipe, nothing]


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_what_is_no_file_in_the_folder_ends_in_an_error_that_names_it(project: Project, make) -> None:
    make(project)
    outcome = project.run(NAME)
    assert outcome.failed == "fetch_data"
    assert outcome.error is not None
    assert NAME in outcome.error


@pytest.mark.parametrize(
    "make", [link_out, link_to_itself, link_to_nothing, link_to_a_device, a_pipe], ids=lambda make: make.__name__
)
def test_a_folder_of_shards_with_something_else_among_them_ends_in_an_error_that_names_it(
    project: Project, make
) -> None:
    shards = project.custom / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_bytes(good_lines())
    make(project)
    entry = project.custom / NAME
    if entry.is_symlink():
        (shards / NAME).symlink_to(entry.readlink())
        entry.unlink()
    else:
        entry.rename(shards / NAME)
    outcome = project.run("shards")
    assert outcome.failed == "fetch_data"
    assert outcome.error is not None
    assert NAME in outcome.error


@pytest.mark.parametrize(
    "source", ["../../../outside.jsonl", "a/../../../../outside.jsonl", "//outside.jsonl", "./../../../outside.jsonl"]
)
def test_a_source_that_names_a_file_outside_of_the_folder_is_refused(project: Project, source: str) -> None:
    project.folder.with_name("outside.jsonl").write_bytes(good_lines())
    (project.custom / "a").mkdir()
    outcome = project.run(source)
    assert outcome.error is not None
    assert "outside" in outcome.error


def test_a_file_that_may_not_be_read_ends_in_an_error_that_names_it(project: Project) -> None:
    path = project.write(NAME, good_lines())
    path.chmod(0)
    outcome = as_nobody(project, NAME) if os.geteuid() == 0 else project.run(NAME)
    assert outcome.error is not None
    assert NAME in outcome.error


def test_a_folder_of_shards_of_which_a_part_may_not_be_read_ends_in_an_error_that_names_it(project: Project) -> None:
    project.write("shards/a.jsonl", good_lines())
    project.write("shards/closed/b.jsonl", good_lines(6, first=6)).parent.chmod(0)
    outcome = as_nobody(project, "shards") if os.geteuid() == 0 else project.run("shards", "fetch_data")
    (project.custom / "shards/closed").chmod(0o755)
    assert outcome.error is not None
    assert "closed" in outcome.error


def as_nobody(project: Project, name: str) -> Outcome:
    """The run without root's rights, which the kernel lets read anything; what the stages import is imported before, as root."""
    project.write("warm.jsonl", good_lines())
    project.run("warm.jsonl")
    (project.custom / "warm.jsonl").unlink()
    shutil.rmtree(project.folder / "data/raw")
    for path in [project.folder, *project.folder.rglob("*")]:
        os.chown(path, 65534, -1, follow_symlinks=False)
    above = [folder for folder in project.folder.parents if folder.stat().st_mode & 0o055 != 0o055]
    modes = [folder.stat().st_mode for folder in above]
    try:
        for folder, mode in zip(above, modes, strict=True):
            folder.chmod(mode | 0o055)
        os.seteuid(65534)
        return project.run(name, "fetch_data")
    finally:
        os.seteuid(0)
        for folder, mode in zip(above, modes, strict=True):
            folder.chmod(mode)


NAMES = [
    "two words.jsonl",
    'it\'s "quoted".jsonl',
    "line\nend.jsonl",
    "back\\slash.jsonl",
    "$(touch pwned).jsonl",
    "-rf.jsonl",
    "\u00e9\u65e5\u672c\U0001f642.jsonl",
    "per%cent {brace}.jsonl",
    "[red]mark[/red].jsonl",
    f"{'n' * 240}.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_an_odd_name_is_read(project: Project, name: str) -> None:
    project.write(name, good_lines())
    outcome = project.run(name, standardize={"heldout_fraction": 0.0})
    assert outcome.error is None
    assert outcome.kept == {"train": 6, "heldout": 0}
    assert sorted(path.name for path in project.folder.iterdir()) == [".retune", "data", "params.yaml", "stages"]


NOT_UTF_8 = os.fsdecode(b"\xe9.jsonl")


def test_a_file_whose_name_is_no_utf_8_is_no_traceback_where_it_only_lies_beside(project: Project) -> None:
    project.write("x.jsonl", good_lines())
    project.write(NOT_UTF_8, good_lines())
    assert project.run("x.jsonl").error is None


def test_a_shard_whose_name_is_no_utf_8_is_read_or_refused_in_words(project: Project) -> None:
    project.write("shards/a.jsonl", good_lines())
    project.write(f"shards/{NOT_UTF_8}", good_lines(6, first=6))
    outcome = project.run("shards", standardize={"heldout_fraction": 0.0})
    assert outcome.kept == {"train": 12, "heldout": 0} or outcome.error is not None
