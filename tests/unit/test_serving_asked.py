"""What a query and an Accept header ask for."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.serving.asked import Asked, options_of, read_asked
from visiondyno.serving.config import ServingConfig
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.video_form import FrameChoice

DETECTOR: dict[str, Any] = {"card": {"task": "detection", "classes": ["car", "bus", "a, b"]}}
DEPTH: dict[str, Any] = {"card": {"task": "depth", "classes": []}}


def config(**given: Any) -> ServingConfig:
    return ServingConfig(model="fake:detection", _env_file=None, **given)


def refusal(query: str) -> str:
    with pytest.raises(SpecError) as raised:
        read_asked(query)
    return raised.value.message


def test_nothing_asked_is_nothing_to_judge() -> None:
    assert read_asked("") == Asked()
    assert not read_asked("format=jpeg&every=2").needs_model
    assert read_asked("classes=car").needs_model


def test_all_parameters_are_read() -> None:
    asked = read_asked("conf=0.5&iou=1&classes=car,bus&classes=2&format=png&fps=2.5&start_s=3")
    assert (asked.conf, asked.iou, asked.classes) == (0.5, 1.0, ("car,bus", "2"))
    assert asked.form == "png"
    assert asked.frames == FrameChoice(frames_per_second=2.5, start_s=3.0)
    assert asked.of_video == ("fps", "start_s")
    assert read_asked("every=3&max_frames=4").frames == FrameChoice(every=3, most=4)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("confidence=0.5", "no parameter 'confidence'; there are classes, conf"),
        ("conf=0.5&conf=0.6", "'conf' is given twice"),
        ("conf=", "'conf' has no value"),
        ("conf=1.01", "'conf' is '1.01'; give a number from 0 to 1"),
        ("conf=-0.1", "'conf' is '-0.1'"),
        ("conf=nan", "'conf' is 'nan'"),
        ("iou=half", "'iou' is 'half'; give a number"),
        ("every=0", "'every' is '0'; give a whole number"),
        ("every=1.5", "'every' is '1.5'; give a whole number"),
        ("fps=0", "'fps' is '0'"),
        ("fps=inf", "'fps' is 'inf'"),
        ("every=1&fps=1", "one of 'every' and 'fps'"),
        ("start_s=2&end_s=2", "'end_s' must be after 'start_s'"),
        ("format=gif", "'format' is 'gif'; give json, ndjson, jpeg, png or annotated"),
        ("conf=%ff", "isn't UTF-8"),
        ("&".join(["classes=car"] * 201), "more than 200 parameters"),
    ],
    ids=range(16),
)
def test_what_a_query_cannot_say_is_refused_by_name(query: str, says: str) -> None:
    assert says in refusal(query)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5))
def test_any_query_is_read_or_refused(given: dict[str, str]) -> None:
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in given.items())
    try:
        asked = read_asked(query)
    except SpecError:
        return
    assert set(given) <= {"conf", "iou", "classes", "format", *asked.of_video}


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("image/jpeg", "jpeg"),
        ("image/png", "png"),
        ("image/*", "jpeg"),
        ("text/html,image/webp,*/*;q=0.8", "json"),
        ("image/png;q=0.5, image/jpeg;q=0.9", "jpeg"),
        ("image/png, image/jpeg", "png"),
        ("image/jpeg;q=0, application/json;q=0.1", "json"),
        ("image/jpeg;q=much", "json"),
        ("image/png;level=1;q=0.4, image/jpeg;q=0.3", "png"),
        ("text/plain", "json"),
    ],
    ids=range(12),
)
def test_accept_chooses_the_form(accept: str, form: str) -> None:
    assert read_asked("", accept).form == form
    assert read_asked("format=json", accept).form == "json"


def test_classes_go_by_name_and_by_id() -> None:
    names = ["car", "bus", "a, b", "7"]
    assert class_ids(["bus", "car"], names) == [0, 1]
    assert class_ids(["car, bus"], names) == [0, 1]
    assert class_ids(["a, b"], names) == [2]
    assert class_ids(["2", "0,2"], names) == [0, 2]
    assert class_ids(["7"], names) == [3]
    assert class_ids([], names) == []


@pytest.mark.parametrize("wrong", ["horse", "3", "car,horse", "99999999999", "²", "car,"])
def test_an_unknown_class_is_told_which_there_are(wrong: str) -> None:
    with pytest.raises(SpecError, match=r"There is no class '.*'; there are car, bus \(ids 0 to"):
        class_ids([wrong], ["car", "bus"])
    with pytest.raises(SpecError, match=r"n19 and 60 more \(ids 0 to 79\)"):
        class_ids(["horse"], [f"n{number}" for number in range(80)])


def test_what_was_asked_goes_before_what_the_server_is_set_to() -> None:
    server = config(conf=0.3, iou=0.6, classes="bus")
    assert options_of(Asked(), server, DETECTOR) == {"conf": 0.3, "iou": 0.6, "classes": [1]}
    asked = Asked(conf=0.0, classes=("car",), form="png")
    assert options_of(asked, server, DETECTOR) == {
        "conf": 0.0,
        "iou": 0.6,
        "classes": [0],
        "format": "png",
    }
    assert options_of(Asked(), config(), DETECTOR) == {}


def test_a_depth_model_has_nothing_to_choose() -> None:
    assert options_of(Asked(form="png"), config(), DEPTH) == {"format": "png"}
    assert options_of(Asked(), config(conf=0.5), DEPTH) == {}
    for asked, name in ((Asked(conf=0.5), "conf"), (Asked(classes=("car",)), "classes")):
        with pytest.raises(SpecError, match=f"leave '{name}' away"):
            options_of(asked, config(), DEPTH)
