"""What all tests stand on: signals as a program at a terminal has them, and which tests one worker takes.

`make test` runs two workers (pytest-xdist). Each has session fixtures of its own, so the files that share an expensive one go to the
same worker, and the long work goes first, so that both end at about the same time.
"""

import signal
from collections import defaultdict

import pytest

# a shell that starts pytest in the background has it ignore SIGINT, and so would all that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

EXPENSIVE = ("project", "trained", "layouts", "options", "spoken", "llama3_folder", "made_copies", "made_toy")
"""Session fixtures that take many seconds: what is to be made once, not once a worker."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the group that one worker takes, and order the groups: those of expensive fixtures, other slow files, the rest."""
    fixtures: dict[str, set[str]] = defaultdict(set)
    slow: set[str] = set()
    for item in items:
        file = item.nodeid.partition("::")[0]
        room = file.split("/")[1]  # fixtures of one name in two folders are two
        fixtures[file] |= {f"{room}/{name}" for name in EXPENSIVE if name in getattr(item, "fixturenames", ())}
        if item.get_closest_marker("slow"):
            slow.add(file)
    groups = joined(fixtures)
    order: dict[str, tuple[int, str]] = {}
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = groups[file]
        item.add_marker(pytest.mark.xdist_group(group))
        order[item.nodeid] = (0 if group != file else 1 if file in slow else 2, group)
    items.sort(key=lambda item: order[item.nodeid])


def joined(fixtures: dict[str, set[str]]) -> dict[str, str]:
    """{file: group}: files that share a fixture, directly or by way of others, have one; a file that shares none is a group of its own."""
    groups: list[tuple[set[str], set[str]]] = []
    for file, names in fixtures.items():
        if not names:
            continue
        files, all_names = {file}, set(names)
        apart = []
        for others, shared in groups:
            if shared & all_names:
                files |= others
                all_names |= shared
            else:
                apart.append((others, shared))
        groups = [*apart, (files, all_names)]
    return {file: file for file in fixtures} | {file: min(names) for files, names in groups for file in files}
