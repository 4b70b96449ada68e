from retune.use.reminders import reminders


def params(into="base16", lora="f16", license_name="apache-2.0"):
    return {
        "merge": {"into": into},
        "gguf": {"license": license_name, "name": "old", "lora": lora},
        "report": {"title": "Old one"},
    }


def test_another_base_reminds_of_the_names_that_stay_and_of_the_licence_that_went():
    went, stay = reminders({"fetch_model.source": [], "gguf.license": []}, params(license_name=None))
    assert "gguf.license is null" in went
    assert "still gguf.name old, report.title Old one" in stay


def test_other_data_remind_of_the_licence_too():
    (stay,) = reminders({"fetch_data.sources.0.source": []}, params())
    assert "gguf.license apache-2.0" in stay


def test_what_was_given_with_the_change_is_not_reminded_of():
    given = {"fetch_model.source": [], "gguf.license": [], "gguf.name": [], "report.title": []}
    assert reminders(given, params()) == []
    assert reminders({"train.epochs": []}, params()) == []


def test_nf4_reminds_of_the_adapter_file_that_it_leaves_out():
    (line,) = reminders({"merge.into": []}, params(into="dequantized_nf4"))
    assert "no adapter file" in line
    assert reminders({"merge.into": []}, params(into="dequantized_nf4", lora="none")) == []
    assert reminders({"merge.into": []}, params()) == []
    assert reminders({"train.epochs": []}, params(into="dequantized_nf4")) == []


def test_preset_as_it_is_names_its_own_model_and_reminds_of_nothing():
    assert reminders({"fetch_model.source": [], "fetch_data.sources.0.source": []}, params(), whole=True) == []
