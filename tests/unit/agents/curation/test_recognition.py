from pathlib import Path

import pytest

from shoal.agents.curation import names
from shoal.agents.curation.recognise import Finding
from shoal.agents.curation.recognition import Recognition, recognition_of
from shoal.agents.curation.scrub import scrub
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import parse_config
from shoal.errors import ConfigError

TEXT = "Ann <a@b.org> called 707-538-8338; Ann again"


def _scrubbed(recognition: Recognition, label: str = "internal") -> str:
    response = {"choices": [{"message": {"role": "assistant", "content": "ok"}}]}
    request = {"messages": [{"role": "user", "content": TEXT}]}
    trace = Trace(id=TraceId("t"), request=request, response=response, timestamp=0.0, privacy=label)
    return scrub(trace, recognition)[0].chat.last_user_text


def test_a_label_may_have_recognisers_of_its_own() -> None:
    config = parse_config({"privacy": {"labels": {"public": [], "local-only": ["email"]}}}, source="x")
    recognition = recognition_of(config.privacy)
    assert _scrubbed(recognition) == "Ann <<EMAIL_1>> called <PHONE_1>; Ann again"
    assert _scrubbed(recognition, "public") == TEXT
    assert _scrubbed(recognition, "local-only") == "Ann <<EMAIL_1>> called 707-538-8338; Ann again"


def test_names_of_a_model_get_pseudonyms_beside_what_has_a_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(text: str) -> list[Finding]:
        at = [place for place in range(len(text)) if text.startswith("Ann", place)]
        over = [Finding("organisation", text.index("707"), text.index(";"), "no")] if "707" in text else []
        return [*(Finding("person", place, place + 3, "ann") for place in at), *over]

    monkeypatch.setattr(names, "name_finder", lambda model: find)
    recognition = Recognition(kinds=("email", "phone"), by_label={"public": ()}, names_model="made-up")
    assert _scrubbed(recognition) == "<PERSON_1> <<EMAIL_1>> called <PHONE_1>; <PERSON_1> again"
    assert _scrubbed(recognition, "public") == TEXT


def test_a_model_that_is_not_installed_is_refused_and_never_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_model") as caught:
        names.name_finder("no_such_model")
    assert caught.value.param == "privacy.names_model"
