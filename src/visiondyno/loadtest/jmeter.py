"""A load test as a plan for Apache JMeter 5.

The elements and their properties are those that JMeter's own editor writes (user manual: "Component
Reference", and for the file's form "Building a Test Plan", jmeter.apache.org/usermanual). An open
loop becomes an Open Model Thread Group, which JMeter has since 5.5; a closed one a Thread Group.
JMeter measures from sending, not from the schedule, and its `random_arrivals` fixes the number of
arrivals where ours is Poisson's own: the plan sends the same load, and its figures are JMeter's.
"""

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from visiondyno.loadtest.reaching import prepared_targets
from visiondyno.loadtest.redaction import is_secret_name
from visiondyno.loadtest.targets import PreparedTarget, image_files
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    Load,
    LoadTestSpec,
    PoissonLoad,
    RampLoad,
    SpikeLoad,
    TargetSpec,
)
from visiondyno.whole_file import write_whole

JMETER = "5.5"
"""The oldest JMeter that reads a plan of ours."""

_MATCHES, _OR = 1, 32
"""Of ResponseAssertion's `Assertion.test_type`: the whole text matches the pattern; any of them."""
_SAVED = {
    "time": True, "latency": True, "timestamp": True, "success": True, "label": True, "code": True,
    "message": True, "threadName": True, "dataType": False, "encoding": False, "assertions": False,
    "subresults": False, "responseData": False, "samplerData": False, "xml": False,
    "fieldNames": True, "responseHeaders": False, "requestHeaders": False,
    "responseDataOnError": False, "saveAssertionResultsFailureMessage": True, "bytes": True,
    "sentBytes": True, "url": False, "threadCounts": True, "idleTime": True, "connectTime": True,
}  # fmt: skip
"""What a ResultCollector writes of each sample, by the names of SampleSaveConfiguration."""


def write_plan(spec: LoadTestSpec, file: Path) -> list[Path]:
    """Write the plan, and beside it the list of images of a target that has several.

    Returns:
        The files, the plan first.

    Raises:
        SpecError: a target can't be used.
        StorageFull: a file can't be written.
    """
    plan, lists = jmeter_plan(spec, file.stem)
    write_whole(file, plan.encode(), "The plan")
    written = [file]
    for name, text in lists.items():
        written.append(file.with_name(name))
        write_whole(written[-1], text.encode(), "The list of images")
    return written


def jmeter_plan(spec: LoadTestSpec, stem: str) -> tuple[str, dict[str, str]]:
    """The plan's XML, and the text of each CSV file that it reads.

    A secret header or query parameter isn't written: its value is JMeter's property of that name,
    given with `-J`.

    Args:
        spec: of the load test.
        stem: of the plan's file name; the CSV files are named after it.

    Raises:
        SpecError: a target can't be used.
    """
    root = ET.Element("jmeterTestPlan", version="1.2", properties="5.0", jmeter=JMETER)
    outer = ET.SubElement(root, "hashTree")
    _test_plan(outer)
    tree = ET.SubElement(outer, "hashTree")
    lists: dict[str, str] = {}
    prepared = prepared_targets(spec.targets)
    for place, (target, ready) in enumerate(zip(spec.targets, prepared, strict=True), 1):
        group = _group(tree, spec, ready.name, place)
        files = _image_files(target)
        if len(files) > 1:
            name = f"{stem}.images{'' if len(prepared) == 1 else f'-{place}'}.csv"
            lists[name] = _csv(files, ready)
            _csv_data_set(group, name)
        _sampler(group, target, ready, files, spec.timeout_s)
    _collector(tree, "SummaryReport", "Summary Report")
    _collector(tree, "SimpleDataWriter", "Simple Data Writer")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n", lists


def schedule_text(load: Load, timeout_s: float) -> str:
    """The schedule of an Open Model Thread Group.

    `rate(A/sec) even_arrivals(T s) rate(B/sec)` grows from A to B in T seconds; arrivals are
    `random_arrivals` where they are Poisson's (user manual, "Open Model Thread Group"). The group
    ends its requests when the schedule does, so a pause of the time limit stands at the end.

    Raises:
        ValueError: a closed loop has no schedule.
    """
    match load:
        case ConstantLoad() | PoissonLoad():
            kind = "even_arrivals" if load.kind == "constant" else "random_arrivals"
            parts = [_steady(load.rate_per_s, kind, load.duration_s)]
        case RampLoad():
            begin, end = (_rate(one) for one in (load.from_rate_per_s, load.to_rate_per_s))
            parts = [f"{begin} even_arrivals({load.duration_s:g} s) {end}"]
        case SpikeLoad():
            after_s = load.duration_s - load.spike_start_s - load.spike_duration_s
            parts = [
                _steady(rate, "even_arrivals", length_s)
                for rate, length_s in (
                    (load.rate_per_s, load.spike_start_s),
                    (load.spike_rate_per_s, load.spike_duration_s),
                    (load.rate_per_s, after_s),
                )
                if length_s > 0
            ]
        case ClosedLoad():
            raise ValueError("A closed loop has no schedule.")
    return " ".join([*parts, f"pause({timeout_s:g} s)"])


def _steady(rate_per_s: float, kind: str, length_s: float) -> str:
    return f"{_rate(rate_per_s)} {kind}({length_s:g} s) {_rate(rate_per_s)}"


def _rate(rate_per_s: float) -> str:
    return f"rate({rate_per_s:.10g}/sec)"


# ---- properties


def _named(parent: ET.Element, kind: str, gui: str, test: str, name: str) -> ET.Element:
    return ET.SubElement(parent, kind, guiclass=gui, testclass=test, testname=name, enabled="true")


def _string(parent: ET.Element, name: str, value: str) -> None:
    ET.SubElement(parent, "stringProp", name=name).text = value


def _int(parent: ET.Element, name: str, value: int) -> None:
    ET.SubElement(parent, "intProp", name=name).text = str(value)


def _bool(parent: ET.Element, name: str, value: bool) -> None:
    ET.SubElement(parent, "boolProp", name=name).text = "true" if value else "false"


def _property_of(name: str) -> str:
    """JMeter's property of a secret, such as `${__P(authorization)}`."""
    return "${__P(" + name.lower().replace(",", "_") + ")}"


# ---- elements


def _test_plan(parent: ET.Element) -> None:
    plan = _named(parent, "TestPlan", "TestPlanGui", "TestPlan", "VisionDyno load test")
    _string(plan, "TestPlan.comments", "Made by dyno loadtest --export-jmeter")
    _bool(plan, "TestPlan.functional_mode", False)
    _bool(plan, "TestPlan.tearDown_on_shutdown", True)
    # Targets take turns here as well: side by side they would share this machine.
    _bool(plan, "TestPlan.serialize_threadgroups", True)
    variables = ET.SubElement(
        plan, "elementProp", name="TestPlan.user_defined_variables", elementType="Arguments",
        guiclass="ArgumentsPanel", testclass="Arguments", testname="User Defined Variables",
        enabled="true",
    )  # fmt: skip
    ET.SubElement(variables, "collectionProp", name="Arguments.arguments")


def _group(tree: ET.Element, spec: LoadTestSpec, name: str, place: int) -> ET.Element:
    """The thread group of a target; returns its hashTree."""
    load = spec.load
    if isinstance(load, ClosedLoad):
        return _closed_group(tree, load, name)
    group = _named(
        tree, "OpenModelThreadGroup", "OpenModelThreadGroupGui", "OpenModelThreadGroup", name
    )
    ET.SubElement(
        group, "elementProp", name="ThreadGroup.main_controller",
        elementType="OpenModelThreadGroupController",
    )  # fmt: skip
    _string(group, "ThreadGroup.on_sample_error", "continue")
    _string(group, "OpenModelThreadGroup.schedule", schedule_text(load, spec.timeout_s))
    # 0 would draw anew in each run; groups should differ.
    _string(group, "OpenModelThreadGroup.random_seed", str(spec.seed + place))
    return ET.SubElement(tree, "hashTree")


def _closed_group(tree: ET.Element, load: ClosedLoad, name: str) -> ET.Element:
    group = _named(tree, "ThreadGroup", "ThreadGroupGui", "ThreadGroup", name)
    loops = -1 if load.requests is None else max(1, load.requests // load.concurrency)
    controller = ET.SubElement(
        group, "elementProp", name="ThreadGroup.main_controller", elementType="LoopController",
        guiclass="LoopControlPanel", testclass="LoopController", testname="Loop Controller",
        enabled="true",
    )  # fmt: skip
    _bool(controller, "LoopController.continue_forever", False)
    _int(controller, "LoopController.loops", loops)
    _string(group, "ThreadGroup.on_sample_error", "continue")
    _int(group, "ThreadGroup.num_threads", load.concurrency)
    _int(group, "ThreadGroup.ramp_time", 0)
    _bool(group, "ThreadGroup.scheduler", load.requests is None)
    # Whole seconds only.
    _string(group, "ThreadGroup.duration", str(max(1, round(load.duration_s))))
    _string(group, "ThreadGroup.delay", "")
    _bool(group, "ThreadGroup.same_user_on_next_iteration", True)
    inner = ET.SubElement(tree, "hashTree")
    if load.think_time_s:
        timer = _named(inner, "ConstantTimer", "ConstantTimerGui", "ConstantTimer", "Think time")
        _string(timer, "ConstantTimer.delay", str(round(1000 * load.think_time_s)))
        ET.SubElement(inner, "hashTree")
    return inner


def _csv_data_set(tree: ET.Element, file: str) -> None:
    """One row of the file for each sample, from the first again after the last."""
    data = _named(tree, "CSVDataSet", "TestBeanGUI", "CSVDataSet", "Images")
    _string(data, "filename", file)
    _string(data, "fileEncoding", "UTF-8")
    _string(data, "variableNames", "image,image_type")
    _bool(data, "ignoreFirstLine", False)
    _string(data, "delimiter", ",")
    _bool(data, "quotedData", True)
    _bool(data, "recycle", True)
    _bool(data, "stopThread", False)
    _string(data, "shareMode", "shareMode.group")
    ET.SubElement(tree, "hashTree")


def _sampler(
    tree: ET.Element,
    target: TargetSpec,
    ready: PreparedTarget,
    files: Sequence[Path],
    timeout_s: float,
) -> None:
    line, headers = _head_of(ready.requests[0])
    method, path, _ = line.split(" ", 2)
    sampler = _named(tree, "HTTPSamplerProxy", "HttpTestSampleGui", "HTTPSamplerProxy", ready.name)
    _string(sampler, "HTTPSampler.protocol", "https" if ready.uses_tls else "http")
    _string(sampler, "HTTPSampler.domain", ready.host)
    _string(sampler, "HTTPSampler.port", str(ready.port))
    _string(sampler, "HTTPSampler.path", _public_path(path))
    _string(sampler, "HTTPSampler.method", method)
    _string(sampler, "HTTPSampler.contentEncoding", "UTF-8")
    _bool(sampler, "HTTPSampler.follow_redirects", False)
    _bool(sampler, "HTTPSampler.auto_redirects", False)
    _bool(sampler, "HTTPSampler.use_keepalive", not ready.closes)
    _bool(sampler, "HTTPSampler.DO_MULTIPART_POST", False)
    _string(sampler, "HTTPSampler.implementation", "HttpClient4")
    for name in ("connect_timeout", "response_timeout"):
        _string(sampler, f"HTTPSampler.{name}", str(round(1000 * timeout_s)))
    body = json.dumps(target.json_body) if target.json_body is not None else None
    _bool(sampler, "HTTPSampler.postBodyRaw", body is not None)
    _arguments(sampler, body)
    kind = headers.get("content-type", ("", ""))[1]
    if len(files) > 1:
        _file(sampler, "${image}", "${image_type}")
    elif files:
        _file(sampler, str(files[0]), kind)
    elif target.body_file is not None:
        _file(sampler, str(Path(target.body_file).absolute()), kind)
    inner = ET.SubElement(tree, "hashTree")
    _headers(inner, {name: pair for name, pair in headers.items()
                     if name != "content-type" or body is not None})  # fmt: skip
    _assertions(inner, target)


def _arguments(sampler: ET.Element, body: str | None) -> None:
    """The raw body as the one argument without a name; none where there is no such body."""
    arguments = ET.SubElement(
        sampler, "elementProp", name="HTTPsampler.Arguments", elementType="Arguments",
        guiclass="HTTPArgumentsPanel", testclass="Arguments", testname="User Defined Variables",
    )  # fmt: skip
    collection = ET.SubElement(arguments, "collectionProp", name="Arguments.arguments")
    if body is not None:
        argument = ET.SubElement(collection, "elementProp", name="", elementType="HTTPArgument")
        _bool(argument, "HTTPArgument.always_encode", False)
        _string(argument, "Argument.value", body)
        _string(argument, "Argument.metadata", "=")


def _file(sampler: ET.Element, path: str, kind: str) -> None:
    """A file without a parameter name is the whole body (user manual, "HTTP Request")."""
    files = ET.SubElement(
        sampler, "elementProp", name="HTTPsampler.Files", elementType="HTTPFileArgs"
    )
    collection = ET.SubElement(files, "collectionProp", name="HTTPFileArgs.files")
    file = ET.SubElement(collection, "elementProp", name=path, elementType="HTTPFileArg")
    _string(file, "File.path", path)
    _string(file, "File.paramname", "")
    _string(file, "File.mimetype", kind)


def _headers(tree: ET.Element, headers: dict[str, tuple[str, str]]) -> None:
    manager = _named(tree, "HeaderManager", "HeaderPanel", "HeaderManager", "Headers")
    collection = ET.SubElement(manager, "collectionProp", name="HeaderManager.headers")
    for name, value in headers.values():
        if name.lower() in {"host", "content-length"}:
            continue  # JMeter's own
        header = ET.SubElement(collection, "elementProp", name="", elementType="Header")
        _string(header, "Header.name", name)
        _string(header, "Header.value", _property_of(name) if is_secret_name(name) else value)
    ET.SubElement(tree, "hashTree")


def _assertions(tree: ET.Element, target: TargetSpec) -> None:
    assertion = _named(
        tree, "ResponseAssertion", "AssertionGui", "ResponseAssertion", "Expected status"
    )
    # The name is misspelt in JMeter itself, and no other one is read.
    patterns = ET.SubElement(assertion, "collectionProp", name="Asserion.test_strings")
    expected = target.expect_status
    for place, one in enumerate(["2\\d\\d"] if expected is None else [str(s) for s in expected]):
        _string(patterns, str(place), one)
    _string(assertion, "Assertion.custom_message", "")
    _string(assertion, "Assertion.test_field", "Assertion.response_code")
    # Without it an expected 404 would count as failed.
    _bool(assertion, "Assertion.assume_success", True)
    _int(assertion, "Assertion.test_type", _MATCHES | _OR)
    ET.SubElement(tree, "hashTree")
    if target.expect_json_key is not None:
        key = _named(
            tree, "JSONPathAssertion", "JSONPathAssertionGui", "JSONPathAssertion", "Expected key"
        )
        quoted = target.expect_json_key.replace("\\", "\\\\").replace("'", "\\'")
        _string(key, "JSON_PATH", f"$['{quoted}']")
        _string(key, "EXPECTED_VALUE", "")
        for name in ("JSONVALIDATION", "EXPECT_NULL", "INVERT", "ISREGEX"):
            _bool(key, name, False)
        ET.SubElement(tree, "hashTree")


def _collector(tree: ET.Element, gui: str, name: str) -> None:
    collector = _named(tree, "ResultCollector", gui, "ResultCollector", name)
    _bool(collector, "ResultCollector.error_logging", False)
    saved = ET.SubElement(collector, "objProp")
    ET.SubElement(saved, "name").text = "saveConfig"
    value = ET.SubElement(saved, "value", {"class": "SampleSaveConfiguration"})
    for field, is_saved in _SAVED.items():
        ET.SubElement(value, field).text = "true" if is_saved else "false"
    ET.SubElement(value, "assertionsResultsToSave").text = "0"
    _string(collector, "filename", "")  # `jmeter -l` names it
    ET.SubElement(tree, "hashTree")


# ---- what is sent


def _head_of(request: bytes) -> tuple[str, dict[str, tuple[str, str]]]:
    """Request line and headers, by name in lower case, as the generator sends them."""
    line, *rest = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = [text.split(": ", 1) for text in rest]
    return line, {name.lower(): (name, value) for name, value in pairs}


def _public_path(target: str) -> str:
    parts = urlsplit(target)
    pieces = []
    for piece in parts.query.split("&") if parts.query else []:
        name, equals, _ = piece.partition("=")
        pieces.append(f"{name}={_property_of(name)}" if equals and is_secret_name(name) else piece)
    return parts.path + (f"?{'&'.join(pieces)}" if pieces else "")


def _image_files(target: TargetSpec) -> list[Path]:
    """The images in the order in which they are sent."""
    return [path.absolute() for path in image_files(target.images)] if target.images else []


def _csv(files: Sequence[Path], ready: PreparedTarget) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for file, request in zip(files, ready.requests, strict=True):
        writer.writerow([file, _head_of(request)[1]["content-type"][1]])
    return text.getvalue()
