"""The configs of Python are those of C++: fields, defaults, errors."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

import bitlab

CONFIGS = [
    bitlab.BitQuantConfig,
    bitlab.MixedPrecisionConfig,
    bitlab.QuantRule,
    bitlab.DataConfig,
    bitlab.AugmentConfig,
    bitlab.ParameterRule,
    bitlab.FeatureLayer,
    bitlab.TrainingConfig,
    bitlab.DeploymentConfig,
    bitlab.LogConfig,
]


@pytest.mark.parametrize("config_type", CONFIGS)
def test_round_trips(config_type: type, tmp_path: Path) -> None:
    config = config_type()
    assert config_type.from_dict(config.to_dict()) == config
    assert config_type.from_json(config.to_json()) == config
    assert config_type.from_yaml(config.to_yaml()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    assert json.loads(config.to_json()) == config.to_dict()
    for name in ("c.yaml", "c.json"):
        config.save(tmp_path / name)
        assert config_type.load(tmp_path / name) == config
    assert eval(repr(config), vars(bitlab)) == config


@pytest.mark.parametrize("config_type", CONFIGS)
def test_documents(config_type: type) -> None:
    config = config_type()
    assert config_type.from_yaml(config.example()) == config
    schema = json.loads(config_type.schema())
    assert list(schema["properties"]) == list(config.to_dict())
    assert {name: field["default"] for name, field in schema["properties"].items() if "default" in field}.items() <= config.to_dict().items()
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    assert validator.is_valid(config.to_dict())
    assert not validator.is_valid({"nothing": 1})


def test_ranges() -> None:
    for wrong in ({"epochs": 0}, {"beta1": 1}, {"learning_rate": 0}, {"warmup": 1.5}):
        with pytest.raises(bitlab.InvalidArgument, match=f"'{next(iter(wrong))}'"):
            bitlab.TrainingConfig(**wrong)
    assert bitlab.TrainingConfig(warmup=1, beta1=0, momentum=0).warmup == 1


def test_fields() -> None:
    config = bitlab.TrainingConfig(epochs=3, optimizer="sgd", learning_rate=1)
    assert (config.epochs, config.optimizer, config.learning_rate) == (3, "sgd", 1.0)
    assert config != bitlab.TrainingConfig()
    config.clip_norm = 0.5
    assert config.replace(epochs=4).clip_norm == 0.5 and config.epochs == 3
    data = bitlab.DataConfig(augment={"crop": 2})
    data.augment.flip = True
    assert data.augment == bitlab.AugmentConfig(crop=2, flip=True)


def test_rules() -> None:
    rule = bitlab.QuantRule(path="*.head", quant={"method": "none"})
    config = bitlab.MixedPrecisionConfig(method="twn", rules=[rule, {"type": "embedding", "quant": {"method": "int8"}}])
    assert config.quant.method == "twn" and config.rules[0] == rule and config.rules[1].type == "embedding"
    config.quant.granularity = "channel"
    assert config.granularity == "channel"
    assert bitlab.MixedPrecisionConfig.from_yaml(config.to_yaml()) == config


def test_presets() -> None:
    assert bitlab.BitQuantConfig.for_mobile().activation == "int8_static"
    assert bitlab.BitQuantConfig.for_server().granularity == "group"
    assert bitlab.BitQuantConfig.for_research() == bitlab.BitQuantConfig()
    assert not bitlab.BitQuantConfig.none().enabled


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (lambda: bitlab.TrainingConfig(epoch=3), bitlab.UnknownName, "did you mean 'epochs'"),
        (lambda: bitlab.TrainingConfig(epochs="many"), bitlab.TypeMismatch, "'epochs'"),
        (lambda: bitlab.TrainingConfig(epochs=1.5), bitlab.TypeMismatch, "'epochs'"),
        (lambda: bitlab.TrainingConfig(optimizer="lion"), bitlab.UnknownName, "adamw, adam, sgd"),
        (lambda: bitlab.BitQuantConfig(method="ternery"), bitlab.UnknownName, "absmean"),
        (lambda: bitlab.TrainingConfig.from_json("{"), bitlab.Corrupt, "JSON"),
        (lambda: bitlab.TrainingConfig.load("nowhere.yaml"), bitlab.NotFound, "nowhere.yaml"),
        (lambda: bitlab.MixedPrecisionConfig(rules=[{"pat": "x"}]), bitlab.UnknownName, "did you mean 'path'"),
    ],
)
def test_errors_are_those_of_files(wrong: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        wrong()  # type: ignore[operator]
    assert isinstance(raised.value, bitlab.Error) and "\n" not in str(raised.value)


def test_an_assignment_that_fails_changes_nothing() -> None:
    config = bitlab.TrainingConfig()
    with pytest.raises(bitlab.TypeMismatch):
        config.epochs = None
    assert config == bitlab.TrainingConfig()
