"""How an inference server is set: flag, then environment, then default."""

from typing import Any

import pytest

from visiondyno.errors import SpecError
from visiondyno.serving.config import ServingConfig, load_serving_config


def config(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], **environ: str) -> ServingConfig:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return load_serving_config(**{"model": "fake:detection", "_env_file": None, **given})


@pytest.mark.parametrize(
    ("text", "least", "most"), [("3", 3, 3), ("0-4", 0, 4), ("1-1", 1, 1)], ids=range(3)
)
def test_replicas_are_a_number_or_a_range(
    monkeypatch: pytest.MonkeyPatch, text: str, least: int, most: int
) -> None:
    by_variable = config(monkeypatch, {}, VISIONDYNO_SERVE_REPLICAS=text)
    assert (by_variable.scale.least, by_variable.scale.most) == (least, most)
    by_flag = config(monkeypatch, {"replicas": text}, VISIONDYNO_SERVE_REPLICAS="7")
    assert (by_flag.replicas_least, by_flag.replicas_most) == (least, most)
    by_both = config(monkeypatch, {"replicas_least": 5, "replicas_most": 6})
    assert (by_both.replicas_least, by_both.replicas_most) == (5, 6)


@pytest.mark.parametrize("text", ["many", "3-", "-3", "3-1", "0"])
def test_replicas_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(SpecError, match="is wrong"):
        config(monkeypatch, {}, VISIONDYNO_SERVE_REPLICAS=text)


def test_lists_and_the_port_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(
        monkeypatch,
        {"classes": None},
        PORT="9000",
        VISIONDYNO_SERVE_CLASSES="car, bus,",
        VISIONDYNO_SERVE_ALLOW_URL_HOSTS="a.example,public",
        VISIONDYNO_SERVE_CORS_ORIGINS="*",
        VISIONDYNO_SERVE_LOG_FORMAT="json",
    )
    assert found.port == 9000
    assert found.classes == ("car", "bus")
    assert found.allow_url_hosts == ("a.example", "public")
    assert found.cors_origins == ("*",)
    assert found.log_format == "json"
    assert config(monkeypatch, {}, VISIONDYNO_SERVE_PORT="9001").port == 9001
    assert config(monkeypatch, {"port": 9002}).port == 9002


def test_a_wrong_setting_names_flag_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"'queue' is wrong: .*VISIONDYNO_SERVE_QUEUE"):
        config(monkeypatch, {}, VISIONDYNO_SERVE_QUEUE="none")
    for port in ("PORT", "VISIONDYNO_SERVE_PORT"):  # the second as Kubernetes may set it
        with pytest.raises(
            SpecError, match=r"'port' is wrong: .*variable VISIONDYNO_SERVE_PORT\.$"
        ):
            config(monkeypatch, {}, **{port: "tcp://10.0.0.1:80"})
        monkeypatch.delenv(port)
    monkeypatch.delenv("VISIONDYNO_SERVE_QUEUE")
    with pytest.raises(SpecError, match=r"'replicas' is wrong: .*VISIONDYNO_SERVE_REPLICAS\.$"):
        load_serving_config(_env_file=None, model="m", replicas="3-1")
    with pytest.raises(SpecError, match=r"'https://a\.example/' is no host"):
        load_serving_config(
            _env_file=None, model="m", allow_url_hosts="b.example,https://a.example/"
        )
    with pytest.raises(SpecError, match=r"No model is given.*VISIONDYNO_SERVE_MODEL"):
        load_serving_config(_env_file=None)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model": "visiondyno:street-n"}, "street-n"),
        ({"model": "models/yolo v8.onnx"}, "yolo-v8"),
        ({"model": "x.onnx", "name": "mine"}, "mine"),
    ],
    ids=range(3),
)
def test_a_model_has_a_name_for_urls(given: dict[str, Any], name: str) -> None:
    assert load_serving_config(_env_file=None, **given).model_name == name


def test_the_processors_cores_are_shared_out_among_the_most_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("visiondyno.serving.config.usable_cpus_here", lambda: 6)

    def threads(**given: Any) -> int | None:
        return config(monkeypatch, given).threads_each

    assert threads() == 6
    assert threads(replicas="0-4") == 1
    assert threads(replicas="2") == 3
    assert threads(replicas="9") == 1
    assert threads(replicas="2", threads=5) == 5
    assert threads(device="cuda") is None
