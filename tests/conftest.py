"""What all tests stand on: signals as a program at a terminal has them, and which tests one worker takes.

`make test` runs two workers (pytest-xdist). Each has session fixtures of its own, so the files that share an expensive one go to the
same worker, and the long work goes first, so that both end at about the same time.
"""

import signal
from typing import Any

import pytest

# a shell that starts pytest in the background has it ignore SIGINT, and so would all that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

TOGETHER = {
    "end_to_end/project": (
        "end_to_end/test_repro",
        "end_to_end/test_edits",
        "end_to_end/test_gguf_origin",
        "end_to_end/test_why",
        "end_to_end/test_tampering",
    ),
    "stages/trained": ("stages/test_evaluate", "stages/test_merge", "stages/test_train", "stages/test_train_curve"),
    "flows/made_toy": ("flows/",),
    "oracle/llama3_folder": ("oracle/",),
    "retune/spoken": ("retune/test_chat", "retune/test_serve", "retune/chat/"),
    "retune/made_toy": (
        "retune/test_accept",
        "retune/test_why",
        "retune/verify/test_command",
        "retune/doctor/test_repository",
        "retune/use/test_changes",
    ),
}
"""{folder/session fixture: the files, or folders, that share it}: made once, not once a worker. The first are begun first."""


def group_of(nodeid: str) -> str:
    """What one worker takes as a whole: the files that share a fixture, or a file."""
    file = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")
    return next(
        (
            name
            for name, files in TOGETHER.items()
            if any(file == one or (one[-1] == "/" and file.startswith(one)) for one in files)
        ),
        file,
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's scheduler of files, for groups of them. (Its own groups, by marks, do nothing with pytest 9.2 and xdist 3.8: the ids lack them.)"""
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the groups: those that share a fixture, other slow files, the rest. A file that shares one and is in no group is an error."""
    slow = {group_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
    order = {name: number for number, name in enumerate(TOGETHER)}
    for item in items:
        group = group_of(item.nodeid)
        shared = {f"{item.nodeid.split('/')[1]}/{name}" for name in getattr(item, "fixturenames", ())} & TOGETHER.keys()
        if shared - {group}:
            raise pytest.UsageError(f"{item.nodeid} uses {shared}: name its file in TOGETHER of tests/conftest.py")
        order.setdefault(group, len(TOGETHER) + (group not in slow))
    items.sort(key=lambda item: order[group_of(item.nodeid)])
