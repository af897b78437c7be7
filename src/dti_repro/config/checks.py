"""Judge the configuration of a command before anything heavy is imported, and describe its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError

from dti_repro.config.schema import SCHEMAS
from dti_repro.config.secrets import SECRETS_STAY_OUT, secret_in
from dti_repro.config.signatures import check_components, parameter_types
from dti_repro.config.values import MISSING, refusal, words
from dti_repro.errors import InputError


def validate(command: str, cfg: DictConfig) -> None:
    """InputError with one line that names the first key whose value is of another type than the command needs, is out
    of its range or breaks a rule between keys, or that would hold a secret.

    A key without a value (`???`) is not judged: whoever reads it says that it is missing.
    """
    content = OmegaConf.to_container(cfg, resolve=True)
    if secret := secret_in(content):
        raise InputError(f"{secret}: {SECRETS_STAY_OUT}")
    if schema := SCHEMAS.get(command):
        _check(schema, content)
    check_components(content)


def _check(schema: type[BaseModel], content: Mapping[str, Any]) -> None:
    try:
        schema.model_validate(_without_missing(content))
    except ValidationError as error:
        found = [item for item in error.errors() if item["type"] != "missing"]
        if found:
            raise refusal(found[0], schema, content) from error


def _without_missing(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    return {key: _without_missing(value) for key, value in content.items() if value != MISSING}


def describe(command: str, cfg: DictConfig | None = None) -> dict[str, str]:
    """Return dotted key -> its type and range in words, such as `a whole number above 0`.

    The keys are those of the command and, given its configuration, of the components that are chosen in it.
    """
    described = _described(SCHEMAS[command]) if command in SCHEMAS else {}
    return described | (_of_components(OmegaConf.to_container(cfg), "") if cfg is not None else {})


def _described(schema: type[BaseModel], prefix: str = "") -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= _described(field.annotation, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = words(Annotated[field.annotation, field])
    return keys


def _of_components(content: Any, prefix: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    if isinstance(content, Mapping):
        types = parameter_types(str(content.get("_target_", "")))
        for name, value in content.items():
            if types.get(name, Any) is not Any:
                keys[f"{prefix}{name}"] = words(types[name])
            keys |= _of_components(value, f"{prefix}{name}.")
    return keys
