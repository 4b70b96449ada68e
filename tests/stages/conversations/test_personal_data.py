"""Keys are put together here, so that no scanner of this repository takes one for a real one."""

import pyarrow as pa
import pytest

from stages.conversations.personal_data import (
    Texts,
    find_ats,
    find_email_addresses,
    find_phone_numbers,
    find_secret_keys,
    load_detectors,
)
from stages.conversations.text_bytes import view_bytes

MIXED = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6kL9nP2rS5uV8xY1"


def texts_with(kind: str, texts: list[str]) -> Texts:
    found = view_bytes(pa.array(texts))
    digits, ats = found.find_digits(), find_ats(found)
    finders = {
        "email": lambda: find_email_addresses(found, ats),
        "phone": lambda: find_phone_numbers(found, digits),
        "key": lambda: find_secret_keys(found, digits, ats),
    }
    return finders[kind]()


ADDRESSES = [
    "write to ann.lee+x@mail.example.org today",
    "a@b.de",
    "<jo_99@sub.host-name.co.uk>",
    "\u00fcber: max@example.com.",
    "mailto:x@y.io",
]
NO_ADDRESSES = [
    "@app.route('/')",
    "a @ b.com",
    "@someone said",
    "x@y",
    "user@localhost",
    "git clone git@github.com:a/b.git",
    "postgres://me:pw@db.example.com/x",
    "A@B\u00f6",
    "100@2.50 each",
    "",
]


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        ("email", ADDRESSES, NO_ADDRESSES),
        (
            "phone",
            [
                "call +49 30 1234567",
                "+1 202-555-0143",
                "(212) 555-0123 is mine",
                "212-555-0123",
                "212.555.0123",
                "1-800-555-0199",
                "tel:+4930123456789",
                "+44 (0)20 7946 0958",
                "(+33 1 23 45 67 89)",
            ],
            [
                "2024-01-15 10:30:00",
                "12345678901234",
                "3.14159265358979",
                "192.168.100.200",
                "x+12345678901",
                "1 000 000 000",
                "+0 000 000 000 000",
                "+99912345678",
                "978-3-16-148410-0",
                "300 400 5000",
                "5 + 12345678 = 12345683",
                "112-555-0123",
                "key-212-555-0123-4",
                "1234",
                "",
            ],
        ),
        (
            "key",
            [
                f"id: AKIA{'IOSFODNN7'}EXAMPLE",
                f"gh{'p_'}{MIXED[:36]}",
                f"export OPENAI_API_KEY=sk-{MIXED[:48]}",
                f"sk-ant-api03-{MIXED}-{MIXED}",
                f"hf_{MIXED[:34]}",
                f"AIza{MIXED[:35]}",
                f"glpat-{MIXED[:20]}",
                f"xoxb-{'123456789012'}-1234567890123-{MIXED[:24]}",
                f"'sk_live_{MIXED[:24]}'",
                f"github_pat_{MIXED[:22]}_{MIXED}",
                f"-----BEGIN RSA {'PRIVATE'} KEY-----\nMIIE",
                f"-----BEGIN {'PRIVATE'} KEY-----",
                "postgres://admin:s3cr3tpw@db.example.com/x",
                "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
                f"{'word ' * 50}hf_{MIXED[:34]}",
                f"{MIXED} and {MIXED} and then gh{'p_'}{MIXED[:36]}",
            ],
            [
                "123e4567-e89b-12d3-a456-426614174000",
                "d61792cc42c80b13b23e3ffa74bc37ec7c77f7d1",
                "test_task-sk-learn-2-of-many-models-here",
                "https://example.org/2024/05/top-10-things-to-see-in-paris",
                "a private key is kept secret; PRIVATE KEY of mine",
                "UNet2DConditionModel_and_more_of_it_2",
                "http://host:8080/path@v2",
                "sk-abc",
                "",
            ],
        ),
    ],
)
def test_texts_with_personal_data_are_told_from_those_without(kind: str, there: list[str], absent: list[str]) -> None:
    assert [text for place, text in enumerate(there) if place not in texts_with(kind, there)] == []
    assert [absent[place] for place in texts_with(kind, absent)] == []
    # one beside the other, none is told by its neighbour
    mixed = [text for pair in zip(there, absent, strict=False) for text in pair]
    assert texts_with(kind, mixed) == set(range(0, len(mixed), 2))


def test_library_of_detectors_is_asked_only_where_a_key_may_be() -> None:
    load_detectors.cache_clear()
    texts_with("key", ["prose with a hash d61792cc42c80b13b23e3ffa74bc37ec7c77f7d1 and Img2ImgPipelineWithNoise2x"])
    assert load_detectors.cache_info().misses == 0
    texts_with("key", [f"AKIA{'IOSFODNN7'}EXAMPLE"])
    assert load_detectors.cache_info().misses == 1
