"""The whole configuration: command line, then environment, then config.toml, then defaults.

Knows every setting, its type and its meaning, and tells a misspelt one. Starts nothing.
"""

from __future__ import annotations

import errno
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from bibwatch import entry_files
from bibwatch.errors import ConfigurationError
from bibwatch.images import ImageLimits
from bibwatch.judging import Judge, Race, Rules, StartList
from bibwatch.judging.race import DEFAULT_FORM, form
from bibwatch.messages import alike, explain, unknown
from bibwatch.registry import Registry

__all__ = ["Settings", "load"]  # for programs; the rest is for bibwatch itself

PREFIX = "BIBWATCH_"
CONFIG_VARIABLE = "BIBWATCH_CONFIG"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NEVER_A_FOLDER = {errno.ELOOP, errno.ENAMETOOLONG}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraSettings(_Section):
    """One camera's drop folder."""

    path: Path = Field(description="The folder the camera's photos arrive in; it is watched with all its subfolders.")
    watch: Literal["auto", "events", "poll"] = Field(
        default="auto",
        description="`events` and scans, or scans alone (`poll`); `auto` polls where the folder is a network mount.",
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        try:
            absolute = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  # links are kept as written
            absolute.stat()
        except (RuntimeError, ValueError) as exc:  # an unknown ~user, a NUL
            raise ValueError(f"{path} cannot be a folder: {exc}") from exc
        except OSError as exc:
            if exc.errno in _NEVER_A_FOLDER:
                raise ValueError(f"{path} cannot be a folder: {exc.strerror}") from exc
        return absolute  # one that is missing, forbidden or stale is waited for

    @field_validator("path", mode="before")
    @classmethod
    def _named(cls, path: object) -> object:
        if path == "":
            raise ValueError("empty; name a folder")
        return path


class IngestSettings(_Section):
    """How new photos are found, and when they count as complete."""

    scan_seconds: float = Field(default=2.0, gt=0, description="Seconds between full scans of a local folder.")
    poll_seconds: float = Field(default=10.0, gt=0, description="Seconds between full scans of a polled folder.")
    settle_seconds: float = Field(
        default=5.0,
        ge=0,
        description="Seconds a file must stay unchanged before it is taken, if it was not seen closed or renamed.",
    )


class RaceSettings(_Section):
    """What is known of the race. It decides how readings are judged, never what a model is asked."""

    bibs: str | tuple[str, ...] | None = Field(
        default=None,
        description="What the race's bibs look like: a regular expression for a whole bib, in capitals and without "
        "spaces, or a list of them; unset: two to five digits, or a letter and three to five.",
    )
    accept_at: float = Field(
        default=0.95, ge=0, le=1, description="Minimum probability of an accepted reading; all others go to review."
    )
    timezone: str | None = Field(
        default=None,
        description="Time zone of cameras that write no offset from UTC, such as Europe/Berlin; unset: not known.",
    )
    start_list: Path | None = Field(
        default=None,
        description="The start list, a CSV or XLSX file; a relative path starts at the configuration file's folder.",
    )

    @field_validator("bibs")
    @classmethod
    def _are_forms(cls, bibs: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for pattern in _patterns(bibs):
            form(pattern)
        if bibs == ():
            raise ValueError("the list names no pattern; leave it out for the default")
        return bibs

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, name: str | None) -> str | None:
        if name is not None and name not in available_timezones():
            raise ValueError(unknown("time zone", name, available_timezones()))
        return name

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone, if it is known."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @property
    def context(self) -> Race:
        """The race as the judge knows it without a start list."""
        return self.with_start_list(None)

    def with_start_list(self, start_list: StartList | None) -> Race:
        """Return the race as the judge knows it; without configured forms, those of the list are bibs as well."""
        configured = tuple(map(form, _patterns(self.bibs)))
        learned = (DEFAULT_FORM, *(start_list.shapes if start_list is not None else ()))
        return Race(forms=configured or learned, accept_at=self.accept_at, start_list=start_list)


def _patterns(bibs: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (bibs,) if isinstance(bibs, str) else bibs or ()


class PipelineSettings(_Section):
    """How ready photos are put together and sent to the model."""

    batch_wait_seconds: float = Field(
        default=0.5, ge=0, description="Seconds a photo may wait for others to fill its batch."
    )
    decode_threads: int = Field(default=2, ge=1, le=64, description="Number of photos loaded and decoded in parallel.")
    answer_seconds: float = Field(
        default=600, gt=0, description="Seconds a model may take for a batch before the watchdog counts it as hung."
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        description="Attempts at a photo that the model fails on, or crashes with, before it is `failed`.",
    )


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    database_url: str = Field(
        default="sqlite:///bibwatch.db", description="Where results are stored: a SQLite or PostgreSQL URL."
    )
    cameras: dict[str, CameraSettings] = Field(default={}, description="The camera folders, by name.")
    stage: str = Field(default="bib_number", description="What to do with the photos (see `bibwatch stages`).")
    preset: str = Field(
        default="rapidocr",
        description="Model to use (see `bibwatch presets`), for stages that do not name one.",
    )
    fallback_presets: list[str] = Field(
        default=[], description="Fallback presets, in order, used while the primary is unavailable."
    )
    fallback_after: float = Field(
        default=60,
        ge=0,
        description="Seconds the primary must be unavailable before a fallback takes over; until then photos wait.",
    )
    reread_fallback: bool = Field(
        default=False,
        description="Read photos again that a fallback has read, once the primary is back; both results are kept.",
    )
    stages: dict[str, dict[str, Any]] = Field(
        default={}, description="Stage options by stage name; new names define stages with `kind`."
    )
    presets: dict[str, dict[str, Any]] = Field(
        default={}, description="Your own presets by name: `kind` or `base`, and model options."
    )
    plugins: list[str] = Field(
        default=[], description="Distributions allowed to provide runtimes, interpreters, stages or presets."
    )
    race: RaceSettings = RaceSettings()
    judging: Rules = Rules()
    ingest: IngestSettings = IngestSettings()
    images: ImageLimits = ImageLimits()
    pipeline: PipelineSettings = PipelineSettings()
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Minimum log level.")
    log_format: Literal["auto", "text", "json"] = Field(default="auto", description="Log format on stderr.")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port for `GET /metrics` (Prometheus); not served by default."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address the metrics are served on.")

    file: ClassVar[Path | None] = None

    @field_validator("cameras")
    @classmethod
    def _names(cls, cameras: dict[str, CameraSettings]) -> dict[str, CameraSettings]:
        for name in cameras:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no camera name; use letters, digits, '.', '_' and '-'")
        return cameras

    @field_validator("stages", "presets")
    @classmethod
    def _plain_names(cls, tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in tables:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name; use letters, digits, '.', '_' and '-'")
            for other in tables:
                if other < name and alike(other, name):
                    raise ValueError(f"{other} and {name} are the same name: `-` and `_` are alike")
        return tables

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=cls.file)

    def judge(self) -> Judge:
        """Return the judge for this race, with the start list of the configured file if there is one, and these rules.

        Raises ConfigurationError if that file cannot be used.
        """
        file = self.start_list_file
        entries = entry_files.load(file).entries if file is not None else None
        return self.judge_with(None if entries is None else StartList(each.bib for each in entries))

    def judge_with(self, start_list: StartList | None) -> Judge:
        """Return the judge for this race with a start list, or without one, and these rules."""
        return Judge(self.race.with_start_list(start_list), self.judging)

    @property
    def start_list_file(self) -> Path | None:
        """The file of the start list, if one is configured."""
        if self.race.start_list is None:
            return None
        folder = self.file.parent if self.file is not None else Path()
        return Path(os.path.abspath(folder / self.race.start_list.expanduser()))  # noqa: PTH100  # links are kept

    def registry(self) -> Registry:
        """Return what can be chosen by name under this configuration."""
        return Registry(self.plugins, self.presets, self.stages)


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the configuration; `overrides` are the command line's. Raises ConfigurationError, a line per mistake."""
    file = _config_file(config)
    _check_environment(os.environ)

    class Here(Settings):
        pass

    Here.file = file
    source = f"configuration ({file})" if file else "configuration"
    try:
        found = Here(**overrides)
    except ValidationError as exc:
        raise ConfigurationError(f"{source}: {explain(exc, _names_at)}") from exc
    except SettingsError as exc:
        raise ConfigurationError(
            f'{source}: {exc} ({exc.__cause__}); lists and tables are written as JSON, such as ["one"] or {{"a": 1}}'
        ) from exc
    except (ValueError, OSError) as exc:  # TOML that does not parse, a file that cannot be read
        raise ConfigurationError(f"{source}: {exc}") from exc
    _check_cameras(found.cameras)
    return found


def _config_file(config: Path | None) -> Path | None:
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"configuration file {named} does not exist")
        return named
    return Path("config.toml") if Path("config.toml").is_file() else None


def _check_cameras(cameras: Mapping[str, CameraSettings]) -> None:
    real = {name: Path(os.path.realpath(camera.path)) for name, camera in cameras.items()}
    for name, path in real.items():
        if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112  # no error where we may not look
            raise ConfigurationError(f"cameras.{name}.path: {path} is not a folder")
        for other, its in real.items():
            if name != other and path.is_relative_to(its):
                raise ConfigurationError(
                    f"cameras {other} and {name} overlap: {path} is {'the same as' if path == its else 'inside'} {its}"
                )


def check_outside(file: Path, cameras: Mapping[str, CameraSettings]) -> None:
    """Raise ConfigurationError if the database's file is in a watched folder."""
    for name, camera in cameras.items():
        if Path(os.path.realpath(file)).is_relative_to(os.path.realpath(camera.path)):
            raise ConfigurationError(
                f"database {file} is inside the folder of camera {name} ({camera.path}); set database_url elsewhere"
            )


def _check_environment(environment: Mapping[str, str]) -> None:
    """Find BIBWATCH_ variables that set nothing: pydantic-settings does not look for them."""
    for variable in environment:
        if not variable.upper().startswith(PREFIX) or variable.upper() == CONFIG_VARIABLE:
            continue
        names = variable[len(PREFIX) :].lower().split("__")
        for depth, name in enumerate(names):
            known = _names_at(names[:depth])
            if known is None or name in known:
                continue
            if not known:
                raise ConfigurationError(
                    f"unknown environment variable {variable!r}: nothing is set below {_as(names[:depth])}"
                )
            word = _as(names[: depth + 1])
            raise ConfigurationError(
                unknown("environment variable", variable, [_as([*names[:depth], each]) for each in known], word)
            )


def _as(names: Sequence[str]) -> str:
    return PREFIX + "__".join(names).upper()


def _names_at(place: Sequence[int | str]) -> Collection[str] | None:
    """Return the setting names allowed at a place in the tree; None where any name is."""
    kind: Any = Settings
    for step in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(step))
            kind = field.annotation if field else Any
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return None if kind is Any or typing.get_origin(kind) is dict else ()
