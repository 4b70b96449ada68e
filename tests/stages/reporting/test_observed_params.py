from stages.core.asked_and_ran import Observation
from stages.reporting.observed_params import note_floors, note_page

CHECKS = [
    {"name": "rejected", "floor": 0.05, "says": "13 of 3 rows (0.4%, at most 5.0%: audit.max_rejected_share)"},
    {"name": "a: kl", "floor": 0.01, "says": "KL 0.1 (at most 0.01: audit.gguf.q8_0.max_kl_divergence); take q8_0 out"},
    {"name": "b: no floor", "floor": None, "says": "not judged, since there is no floor audit.gguf.q2_k"},
    {"name": "gain", "floor": 0.25, "says": "fell by 1 (at least 0.25: audit.min_loss_gain)"},
]


def test_floors_are_those_that_the_verdict_was_judged_by(noted: dict[str, Observation]) -> None:
    asked = {
        "audit.max_rejected_share": 0.05,
        "audit.gguf.q8_0.max_kl_divergence": 0.01,
        "audit.gguf.f16.max_kl_divergence": 0.01,
        "audit.min_loss_gain": 0.5,
        "audit.max_seen_answers": None,
    }
    note_floors(CHECKS, asked)
    assert {key: (one.ran, one.known) for key, one in noted.items()} == {
        "audit.max_rejected_share": (0.05, True),
        "audit.gguf.q8_0.max_kl_divergence": (0.01, True),
        "audit.gguf.f16.max_kl_divergence": (None, False),
        "audit.min_loss_gain": (0.25, True),
        "audit.max_seen_answers": (None, True),
    }


def test_title_is_that_of_the_model_card(noted: dict[str, Observation]) -> None:
    note_page("---\nlicense: x\n---\n\n# A model\n\n## More\n", 7)
    assert (noted["report.title"].ran, noted["report.examples"].ran) == ("A model", 7)
