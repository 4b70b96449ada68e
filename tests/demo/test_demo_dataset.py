"""data/demo/dialogues.jsonl: made again to the byte, right by a check that shares no code with the generator, broken where it says."""

import json
import re
import subprocess
import sys

import dataset
import pytest

ROLES = {"system", "human", "gpt"}


@pytest.fixture(scope="module")
def text(demo):
    return (demo / "dialogues.jsonl").read_bytes()


def answer(told, question):
    """The right answer, by regular expressions over all that was told so far."""
    places = dict(re.findall(r"(\w+) is in the (\w+)\.", told))
    things = dict(re.findall(r"(\w+) has the (\w+ \w+)\.", told))
    if found := re.fullmatch(r"Where (?:is|can I find) (\w+)\?", question):
        return f"{found[1]} is in the {places[found[1]]}."
    if found := re.fullmatch(r"What (?:does|has) (\w+) (?:have|got)\?", question):
        return f"{found[1]} has the {things[found[1]]}."
    found = re.fullmatch(r"Who is in the (\w+)\?", question)
    (who,) = (name for name, place in places.items() if place == found[1])
    return f"{who} is in the {found[1]}."


def test_dataset_generated_again_in_another_process_is_the_committed_file(demo, text, tmp_path):
    made = tmp_path / "dialogues.jsonl"
    script = demo / "dataset.py"
    subprocess.run([sys.executable, "-B", script, made], check=True, env={"PYTHONHASHSEED": "7"})
    assert made.read_bytes() == text


def test_dataset_size_stays_small(text):
    assert len(text) <= 3_000_000
    assert text.count(b"\n") == dataset.GOOD_ROWS + len(dataset.broken_lines(dataset.good_rows()))


def test_dataset_every_good_answer_follows_from_what_was_told_before():
    answers = 0
    for row in dataset.good_rows():
        told, question = "", ""
        for message in row["conversations"]:
            if message["from"] == "gpt":
                assert message["value"] == answer(told, question)
                answers += 1
            else:
                told += " " + message["value"]
                question = re.split(r"(?<=\.) ", message["value"])[-1]
    assert answers > 10_000


def test_dataset_good_rows_are_different_and_alternate():
    rows = dataset.good_rows()
    assert len({json.dumps(row) for row in rows}) == dataset.GOOD_ROWS
    systems = 0
    for row in rows:
        roles = [message["from"] for message in row["conversations"]]
        systems += roles[0] == "system"
        spoken = roles[roles[0] == "system" :]
        assert spoken == ["human", "gpt"] * (len(spoken) // 2)
        assert len(spoken) >= 4
    assert 0.6 < systems / len(rows) < 0.9


def test_dataset_each_broken_line_is_in_the_file_and_wrong_in_its_way(text):
    lines = text.decode().splitlines()
    broken = dataset.broken_lines(dataset.good_rows())
    assert len(broken) >= 12
    for reason, line in broken.items():
        assert lines.count(line) == (2 if reason == "exact duplicate" else 1), reason
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken["not JSON"])
    rows = {reason: json.loads(line) for reason, line in broken.items() if reason != "not JSON"}
    messages = {reason: row.get("conversations") for reason, row in rows.items()}
    roles = {reason: [message["from"] for message in found or []] for reason, found in messages.items()}
    assert messages["no conversations"] is None
    assert messages["no messages"] == []
    assert "value" not in messages["value missing"][1]
    assert messages["value null"][1]["value"] is None
    assert not messages["value empty"][1]["value"].strip()
    assert set(roles["unknown role"]) - ROLES
    assert roles["starts with the assistant"][0] == "gpt"
    assert roles["ends with the user"][-1] == "human"
    assert roles["two user turns in a row"] == ["human", "human", "gpt"]
    assert roles["system turn in the middle"].index("system") == 1
    assert roles["nobody answers"] == ["human"]
    assert "<|eot_id|>" in messages["forged control token"][2]["value"]
