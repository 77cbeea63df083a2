"""The plan for JMeter, read back and held field by field against the form that JMeter writes."""

import csv
import io
import xml.etree.ElementTree as ET

import pytest

from visiondyno.loadtest.jmeter import jmeter_plan, schedule_text, write_plan
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    LoadTestSpec,
    PoissonLoad,
    RampLoad,
    SpikeLoad,
    TargetSpec,
)

JPEG = b"\xff\xd8\xff\xe0" + bytes(12)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
URL = "https://ann:pw123456@host.example/v1/predict?conf=0.2&api_key=abcd1234"


def plan_of(*targets, load=None, **more):
    spec = LoadTestSpec(targets=targets, load=load or ConstantLoad(), **more)
    text, lists = jmeter_plan(spec, "plan")
    return ET.fromstring(text), lists


def props(element):
    return {child.get("name"): child.text or "" for child in element if child.tag.endswith("Prop")}


def the(root, kind):
    (found,) = root.iter(kind)
    return found


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (ConstantLoad(), "rate(10/sec) even_arrivals(30 s) rate(10/sec) pause(5 s)"),
        (
            PoissonLoad(rate_per_s=0.5, duration_s=90),
            "rate(0.5/sec) random_arrivals(90 s) rate(0.5/sec) pause(5 s)",
        ),
        (
            RampLoad(from_rate_per_s=0, to_rate_per_s=50, duration_s=60),
            "rate(0/sec) even_arrivals(60 s) rate(50/sec) pause(5 s)",
        ),
        (
            SpikeLoad(rate_per_s=10, spike_rate_per_s=50, duration_s=30),
            (
                "rate(10/sec) even_arrivals(10 s) rate(10/sec) "
                "rate(50/sec) even_arrivals(5 s) rate(50/sec) "
                "rate(10/sec) even_arrivals(15 s) rate(10/sec) pause(5 s)"
            ),
        ),
        (
            SpikeLoad(spike_start_s=0, spike_duration_s=30, duration_s=30),
            "rate(50/sec) even_arrivals(30 s) rate(50/sec) pause(5 s)",
        ),
    ],
    ids=["constant", "poisson", "ramp", "spike", "only-spike"],
)
def test_schedules_in_jmeters_own_words(load, text):
    assert schedule_text(load, 5.0) == text


def test_a_closed_loop_has_no_schedule_text():
    with pytest.raises(ValueError, match="no schedule"):
        schedule_text(ClosedLoad(), 5.0)


def test_every_element_is_followed_by_its_hash_tree():
    root, _ = plan_of(TargetSpec(url=URL), TargetSpec(url="http://b/"))
    assert root.tag == "jmeterTestPlan"
    assert root.attrib == {"version": "1.2", "properties": "5.0", "jmeter": "5.5"}
    for tree in root.iter("hashTree"):
        kinds = [child.tag == "hashTree" for child in tree]
        if tree is not root.find("hashTree") or len(kinds) > 1:
            assert kinds[::2] == [False] * len(kinds[::2])
            assert kinds[1::2] == [True] * len(kinds[1::2])
        assert len(kinds) % 2 == 0
    for element in root.iter():
        if "guiclass" in element.attrib:
            assert {"testclass", "testname"} <= set(element.attrib)


def test_an_open_loop_is_an_open_model_thread_group():
    root, _ = plan_of(TargetSpec(url=URL, name="detector"), seed=7, timeout_s=4.0)
    group = the(root, "OpenModelThreadGroup")
    assert group.get("guiclass") == "OpenModelThreadGroupGui"
    assert group.get("testname") == "detector"
    assert props(group) == {
        "ThreadGroup.main_controller": "",
        "ThreadGroup.on_sample_error": "continue",
        "OpenModelThreadGroup.schedule": "rate(10/sec) even_arrivals(30 s) rate(10/sec) pause(4 s)",
        "OpenModelThreadGroup.random_seed": "8",
    }
    controller = group.find("elementProp[@name='ThreadGroup.main_controller']")
    assert controller.get("elementType") == "OpenModelThreadGroupController"
    assert props(the(root, "TestPlan"))["TestPlan.serialize_threadgroups"] == "true"


def test_a_closed_loop_is_a_thread_group_with_think_time():
    load = ClosedLoad(concurrency=8, think_time_s=0.25, duration_s=20)
    root, _ = plan_of(TargetSpec(url="http://host/"), load=load)
    group = props(the(root, "ThreadGroup"))
    assert group["ThreadGroup.num_threads"] == "8"
    assert group["ThreadGroup.scheduler"] == "true"
    assert group["ThreadGroup.duration"] == "20"
    loop = the(root, "ThreadGroup").find("elementProp[@elementType='LoopController']")
    assert props(loop)["LoopController.loops"] == "-1"
    assert props(the(root, "ConstantTimer"))["ConstantTimer.delay"] == "250"


def test_a_closed_loop_of_so_many_requests_loops_so_often():
    load = ClosedLoad(concurrency=4, requests=100)
    root, _ = plan_of(TargetSpec(url="http://host/"), load=load)
    group = the(root, "ThreadGroup")
    assert props(group)["ThreadGroup.scheduler"] == "false"
    loop = group.find("elementProp[@elementType='LoopController']")
    assert props(loop)["LoopController.loops"] == "25"
    assert not list(root.iter("ConstantTimer"))


def test_one_image_is_the_whole_body(tmp_path):
    image = tmp_path / "photo.jpg"
    image.write_bytes(JPEG)
    root, lists = plan_of(TargetSpec(url="http://host:8080", images=(str(image),)), timeout_s=2)
    sampler = the(root, "HTTPSamplerProxy")
    told = props(sampler)
    assert told["HTTPSampler.protocol"] == "http"
    assert told["HTTPSampler.domain"] == "host"
    assert told["HTTPSampler.port"] == "8080"
    assert told["HTTPSampler.path"] == "/predict"
    assert told["HTTPSampler.method"] == "POST"
    assert told["HTTPSampler.use_keepalive"] == "true"
    assert told["HTTPSampler.follow_redirects"] == "false"
    assert told["HTTPSampler.response_timeout"] == "2000"
    assert told["HTTPSampler.postBodyRaw"] == "false"
    file = sampler.find("elementProp[@name='HTTPsampler.Files']/collectionProp/elementProp")
    assert file.get("elementType") == "HTTPFileArg"
    assert props(file) == {
        "File.path": str(image), "File.paramname": "", "File.mimetype": "image/jpeg",
    }  # fmt: skip
    assert lists == {}


def test_several_images_come_from_a_list_in_turn(tmp_path):
    for name, content in (("a.jpg", JPEG), ("b, c.png", PNG)):
        (tmp_path / name).write_bytes(content)
    target = TargetSpec(url="http://host/", images=(str(tmp_path),))
    written = write_plan(LoadTestSpec(targets=(target,)), tmp_path / "out.jmx")
    assert [file.name for file in written] == ["out.jmx", "out.images.csv"]
    rows = list(csv.reader(io.StringIO(written[1].read_text())))
    assert rows == [
        [str(tmp_path / "a.jpg"), "image/jpeg"],
        [str(tmp_path / "b, c.png"), "image/png"],
    ]
    root = ET.parse(written[0]).getroot()
    data = props(the(root, "CSVDataSet"))
    assert data["filename"] == "out.images.csv"
    assert data["variableNames"] == "image,image_type"
    assert data["recycle"] == "true"
    assert data["quotedData"] == "true"
    assert data["stopThread"] == "false"
    file = the(root, "HTTPSamplerProxy").find(".//elementProp[@elementType='HTTPFileArg']")
    assert props(file)["File.path"] == "${image}"
    assert props(file)["File.mimetype"] == "${image_type}"


def test_a_json_body_is_raw():
    root, _ = plan_of(TargetSpec(url="http://host/", json_body={"a": [1, "ü"]}))
    sampler = the(root, "HTTPSamplerProxy")
    assert props(sampler)["HTTPSampler.postBodyRaw"] == "true"
    argument = sampler.find(".//elementProp[@elementType='HTTPArgument']")
    assert props(argument) == {
        "HTTPArgument.always_encode": "false",
        "Argument.value": '{"a": [1, "\\u00fc"]}',
        "Argument.metadata": "=",
    }
    headers = {
        props(one)["Header.name"]: props(one)["Header.value"]
        for one in the(root, "HeaderManager").iter("elementProp")
    }
    assert headers["Content-Type"] == "application/json"
    assert "Host" not in headers
    assert "Content-Length" not in headers


def test_another_body_is_a_file(tmp_path):
    body = tmp_path / "tensor.bin"
    body.write_bytes(b"1234")
    root, _ = plan_of(TargetSpec(url="http://host/", body_file=str(body), method="PUT"))
    file = the(root, "HTTPSamplerProxy").find(".//elementProp[@elementType='HTTPFileArg']")
    assert props(file)["File.path"] == str(body)
    assert props(the(root, "HTTPSamplerProxy"))["HTTPSampler.method"] == "PUT"


def test_secrets_become_jmeters_properties():
    target = TargetSpec(url=URL, headers={"X-Api-Key": "k3y-value", "Accept": "image/*"})
    text, _ = jmeter_plan(LoadTestSpec(targets=(target,)), "plan")
    for secret in ("pw123456", "abcd1234", "k3y-value", "YW5u"):
        assert secret not in text
    root = ET.fromstring(text)
    assert props(the(root, "HTTPSamplerProxy"))["HTTPSampler.path"] == (
        "/v1/predict?conf=0.2&api_key=${__P(api_key)}"
    )
    headers = {
        props(one)["Header.name"]: props(one)["Header.value"]
        for one in the(root, "HeaderManager").iter("elementProp")
    }
    assert headers["Authorization"] == "${__P(authorization)}"
    assert headers["X-Api-Key"] == "${__P(x-api-key)}"
    assert headers["Accept"] == "image/*"


def test_expected_answers_are_assertions():
    plain, _ = plan_of(TargetSpec(url="http://host/"))
    assertion = the(plain, "ResponseAssertion")
    assert props(assertion)["Assertion.test_field"] == "Assertion.response_code"
    assert props(assertion)["Assertion.test_type"] == "33"  # matches | or
    assert props(assertion)["Assertion.assume_success"] == "true"
    strings = assertion.find("collectionProp[@name='Asserion.test_strings']")
    assert [one.text for one in strings] == ["2\\d\\d"]
    assert not list(plain.iter("JSONPathAssertion"))
    target = TargetSpec(url="http://host/", expect_status=(200, 404), expect_json_key="it's")
    named, _ = plan_of(target)
    strings = the(named, "ResponseAssertion").find("collectionProp")
    assert [one.text for one in strings] == ["200", "404"]
    assert props(the(named, "JSONPathAssertion"))["JSON_PATH"] == "$['it\\'s']"


def test_results_are_collected_without_bodies():
    root, _ = plan_of(TargetSpec(url="http://host/"))
    guis = [one.get("guiclass") for one in root.iter("ResultCollector")]
    assert guis == ["SummaryReport", "SimpleDataWriter"]
    for collector in root.iter("ResultCollector"):
        saved = {child.tag: child.text for child in collector.find("objProp/value")}
        assert saved["latency"] == saved["connectTime"] == saved["fieldNames"] == "true"
        assert saved["responseData"] == saved["requestHeaders"] == saved["xml"] == "false"


def test_each_target_has_a_group_and_a_list_of_its_own(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    images = (str(tmp_path),)
    root, lists = plan_of(
        TargetSpec(url="http://a/", images=images), TargetSpec(url="http://b/", images=images)
    )
    assert sorted(lists) == ["plan.images-1.csv", "plan.images-2.csv"]
    seeds = [props(one)["OpenModelThreadGroup.random_seed"]
             for one in root.iter("OpenModelThreadGroup")]  # fmt: skip
    assert seeds == ["1", "2"]
