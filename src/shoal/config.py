"""`shoal.yaml`: every setting, its default and its check. Unknown keys and bad values are refused with their path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.config_faults import fault_of
from shoal.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _key_of(variable: str | None, section: str) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"`{section}.api_key_env` names {variable}, which is not set.",
            remedy=f"Set it: export {variable}=...",
            param=f"{section}.api_key_env",
        )
    return key


class GeneralistConfig(_Section):
    """The large model behind Shoal: any OpenAI-compatible endpoint."""

    base_url: str = Field(pattern=r"^https?://")
    model: str
    #: name of the environment variable that holds the key
    api_key_env: str | None = None
    #: price in USD per million tokens
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    #: many providers' terms restrict training on their model's answers, so there is no default
    outputs_may_train: bool | None = None
    #: it runs on this very machine and sends nothing on, so that `local-only` data may go to it. An address on loopback
    #: says nothing of that: a proxy to a cloud API listens there too
    local: bool = False
    timeout_s: float = Field(default=120.0, gt=0)

    def api_key(self) -> str | None:
        """The key from the environment. Raises ConfigError where the named variable is not set."""
        return _key_of(self.api_key_env, "generalist")


class JudgeConfig(_Section):
    """A model that compares a specialist's texts with the generalist's, in learning: any OpenAI-compatible endpoint."""

    base_url: str = Field(pattern=r"^https?://")
    model: str
    #: name of the environment variable that holds the key
    api_key_env: str | None = None
    #: price in USD per million tokens; not known where both are 0
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    #: pairs of texts that it compares for each task, each in both orders
    pairs: int = Field(default=40, ge=1, le=1000)
    #: where it is a task's loss, pairs that choose a candidate and as many more that calibrate; each costs two calls
    verdicts: int = Field(default=400, ge=60, le=10_000)
    #: it runs on this very machine and sends nothing on, so that `local-only` data may go to it
    local: bool = False
    timeout_s: float = Field(default=120.0, gt=0)

    def api_key(self) -> str | None:
        """The key from the environment. Raises ConfigError where the named variable is not set."""
        return _key_of(self.api_key_env, "judge")


class ContractOverride(_Section):
    alpha: float | None = Field(default=None, gt=0, lt=1)
    delta: float | None = Field(default=None, gt=0, lt=1)
    #: when an answer is wrong: by its kind of output, or where the model under `judge` prefers the generalist's text
    loss: Literal["auto", "judge"] = "auto"


class ContractConfig(_Section):
    """At most `alpha` of a specialist's answers are wrong, with confidence 1 - `delta`."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    delta: float = Field(default=0.05, gt=0, lt=1)
    #: by task name
    tasks: dict[str, ContractOverride] = Field(default_factory=dict)

    def for_task(self, name: str) -> tuple[float, float]:
        """(alpha, delta) of a task."""
        override = self.tasks.get(name, ContractOverride())
        return override.alpha or self.alpha, override.delta or self.delta

    def judged(self, name: str) -> bool:
        """Whether a judge model says which of a task's answers are wrong."""
        return self.tasks.get(name, ContractOverride()).loss == "judge"


class RolloutConfig(_Section):
    mode: Literal["manual", "auto"] = "manual"
    canary_share: float = Field(default=0.1, gt=0, le=1)
    #: share of specialist-answered calls that are also put to the generalist
    audit_share: float = Field(default=0.02, ge=0, le=1)
    #: comparisons with the generalist that a version must have in shadow, and again in canary, before it moves on
    min_comparisons: int = Field(default=30, ge=1)


Recogniser: TypeAlias = Literal["email", "phone", "card", "iban", "ip", "ssn"]


class PrivacyConfig(_Section):
    default_label: Literal["public", "internal", "local-only"] = "internal"
    #: kinds of personal data that are replaced by pseudonyms before a trace is readable
    recognisers: tuple[Recogniser, ...] = get_args(Recogniser)
    #: other kinds for calls under a label; an empty list leaves those calls as they are
    labels: dict[Literal["public", "internal", "local-only"], tuple[Recogniser, ...]] = Field(
        default_factory=dict
    )
    #: an installed spaCy model with which names of people, places and organisations are replaced too; slow
    names_model: str = ""


class BaseConfig(_Section):
    """A pretrained model that may be adapted to a task; in the file also just its name."""

    #: hub id, or a local folder
    model: str = Field(min_length=1)
    #: SPDX id; only needed where the base's own model card says none
    licence: str | None = None
    #: the hub's branch, tag or commit
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        return {"model": raw} if isinstance(raw, str) else raw


class LearningConfig(_Section):
    time_limit_min: float = Field(default=20.0, gt=0)
    #: a task needs this many calls before anything is trained for it
    min_calls: int = Field(default=200, ge=20)
    #: of a task's calls at most so many are learnt from, drawn by whole conversations; bounds the memory that training takes
    max_calls_per_task: int = Field(default=50_000, ge=20)
    seed: int = 0
    #: which calls a version is judged by: `conversation` (at random), `time` (of the conversations that ended last), or `auto`: `time`
    #: where timestamps follow conversations. Those that calibrate its contract are drawn at random from the whole log either way
    split: Literal["auto", "conversation", "time"] = "auto"
    #: what label specialists read besides n-grams: `ngrams` (nothing more, no download), `minilm` (all-MiniLM-L6-v2), or a
    #: sentence-transformers model by hub id or local folder
    embedder: str = Field(default="ngrams", min_length=1)
    #: with a site up, learn all tasks this often; None for never
    every_hours: float | None = Field(default=None, gt=0)
    #: with a site up, learn a task again when so many new calls of it may be learnt from; None for never
    every_traces: int | None = Field(default=None, ge=1)
    #: with a site up, learn a task again when so many of its answers were contradicted by feedback; 0 for never
    min_corrections: int = Field(default=20, ge=0)
    #: with a site up, learn a task again when calls were erased that its specialist was trained on, at most once a day
    after_erasure: bool = True
    #: with a site up, learn when so many calls of one kind came that no task covers; 0 for never
    novelty_min_calls: int = Field(default=200, ge=0)
    #: of each task so many held-out prompts are put to the generalist once more, so that its agreement with itself is known
    ask_twice: int = Field(default=0, ge=0, le=10_000)
    #: USD for an hour of one core: what learning and answering are priced at beside the generalist's tokens
    core_hour_usd: float = Field(default=0.05, ge=0)
    #: pretrained models that tasks which no cheaper kind does well enough are tried with, the smallest first
    bases: tuple[BaseConfig, ...] = ()
    #: licences (SPDX ids) under which a base may be used; one of another licence, or of none, is refused
    licences: tuple[str, ...] = (
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "cc0-1.0",
        "unlicense",
    )
    #: keep adapted bases as whole merged weights; else as small adapters that share one base in memory
    merge: bool = False
    #: hold a base's weights in 4 bits while it is trained (QLoRA): `auto` where it is large for the GPU that there is; `always` refuses
    #: a base where that cannot be had, as on a machine without a GPU
    four_bit: Literal["auto", "always", "never"] = "auto"
    #: processes that share the training of a pretrained base, on the Ray cluster of the running site (Ray Train)
    workers: int = Field(default=1, ge=1, le=64)
    #: where those workers keep checkpoints: a folder or object store that all nodes reach; the data folder where empty
    storage_path: str = ""

    @model_validator(mode="after")
    def _enough_to_train(self) -> LearningConfig:
        if self.max_calls_per_task < self.min_calls:
            raise ValueError(
                f"`max_calls_per_task` must not be below `min_calls`, or nothing could be trained; got "
                f"{self.max_calls_per_task} and {self.min_calls}"
            )
        return self


class PlacementWeights(_Section):
    """How much each part of a node's score counts."""

    #: a busy node
    latency: float = Field(default=1.0, ge=0)
    #: another node in use
    energy: float = Field(default=1.0, ge=0)
    #: a dear tier
    cost: float = Field(default=1.0, ge=0)


class PlacementConfig(_Section):
    #: CPUs that one specialist replica asks Ray for
    cpus_per_replica: float = Field(default=0.5, gt=0)
    gpus_per_replica: float = Field(default=0.0, ge=0, le=8)
    #: tier label that specialists ask for; empty for any
    tier: Literal["", "cloud", "edge", "local"] = ""
    #: specialists whose weights are smaller than this share one host
    host_below_mb: float = Field(default=64.0, ge=0)
    weights: PlacementWeights = PlacementWeights()


class TierCosts(_Section):
    """What a machine of a tier costs."""

    #: USD for an hour of one core; `learning.core_hour_usd` where it is not said
    core_hour_usd: float | None = Field(default=None, ge=0)
    #: USD for an hour of one GPU; `costs.gpu_hour_usd` where it is not said
    gpu_hour_usd: float | None = Field(default=None, ge=0)
    #: from the callers to its nodes and back, milliseconds; empty where nobody measured it
    round_trip_ms: float | None = Field(default=None, ge=0)


class CostsConfig(_Section):
    """What computing costs, so that it can be set against the generalist's price. What is not said is unknown, never free."""

    #: USD for an hour of one GPU, on any tier
    gpu_hour_usd: float | None = Field(default=None, ge=0)
    tiers: dict[Literal["cloud", "edge", "local"], TierCosts] = Field(default_factory=dict)


class ToolConfig(_Section):
    """A tool that plans may use: a Python function of the owner's."""

    #: `module:function`, made a tool by `shoal.agents.plans.tools.tool`
    python: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    #: handed to the function with each call; never shown to a model
    options: dict[str, Any] = Field(default_factory=dict)
    #: tier on whose nodes it runs where a step does not say; empty for any
    tier: Literal["", "cloud", "edge", "local"] = ""


class StorageConfig(_Section):
    #: an SQLAlchemy URL, as `postgresql://user@host/shoal`; None for a SQLite file in the data folder. Whatever libpq reads
    #: (PGPASSFILE, PGSSLMODE, ...) counts, so that no password need stand here
    database: str | None = Field(default=None, pattern=r"^[a-z0-9+]+://")
    retention_days: float | None = Field(default=None, gt=0)
    #: new work is refused while the disk has less room than this
    min_free_mb: float = Field(default=256.0, ge=0)


class AuthConfig(_Section):
    #: `auto` asks for a key as soon as one exists or the site listens beyond loopback
    required: Literal["auto", "always"] = "auto"


class TlsConfig(_Section):
    certificate: Path
    private_key: Path


class ServeConfig(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8700, ge=1, le=65535)
    grpc_port: int = Field(default=8701, ge=1, le=65535)
    #: CPUs of the local Ray that `shoal up` starts; None for all of the machine
    num_cpus: int | None = Field(default=None, ge=1)
    #: largest request body in bytes
    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    deadline_s: float = Field(default=120.0, gt=0)
    #: how long a specialist may take before the generalist is asked instead
    specialist_deadline_s: float = Field(default=1.5, gt=0)


class Config(_Section):
    """The whole of `shoal.yaml`."""

    generalist: GeneralistConfig | None = None
    judge: JudgeConfig | None = None
    contract: ContractConfig = ContractConfig()
    rollout: RolloutConfig = RolloutConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    learning: LearningConfig = LearningConfig()
    placement: PlacementConfig = PlacementConfig()
    costs: CostsConfig = CostsConfig()
    storage: StorageConfig = StorageConfig()
    auth: AuthConfig = AuthConfig()
    tls: TlsConfig | None = None
    serve: ServeConfig = ServeConfig()
    #: tools by the name that plans call them by
    tools: dict[str, ToolConfig] = Field(default_factory=dict)
    #: files of plans, each offered as the model `agent/<name>`
    plans: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _has_its_judge(self) -> Config:
        for name in self.contract.tasks:
            if self.contract.judged(name) and self.judge is None:
                raise ConfigError(
                    f"`contract.tasks.{name}.loss` is judge, and no judge is configured.",
                    remedy="Name the model under `judge`, or leave `loss` out.",
                    param=f"contract.tasks.{name}.loss",
                )
        return self


def load_config(path: Path | None) -> Config:
    """Read and check a configuration file; the defaults where `path` is None.

    Raises:
        ConfigError: the file is missing, no YAML, or has an unknown key or a bad value; `param` is the path to it.
    """
    if path is None:
        return Config()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The configuration {path} cannot be read: {error.strerror}.", remedy="Check --config."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.", remedy="Mend the file.") from error
    config = parse_config(raw, source=str(path))
    # files are named as seen from the file that names them
    plans = tuple(path.absolute().parent / plan for plan in config.plans)
    return config.model_copy(update={"plans": plans})


def parse_config(raw: object, *, source: str) -> Config:
    """Check configuration data that was read from `source`."""
    if raw is None:
        return Config()
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{source} must be a mapping of sections, got {type(raw).__name__}.",
            remedy="Write for example `rollout: {mode: auto}`.",
        )
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise fault_of(first, source, _settings_of(first["loc"][:-1])) from None


def _settings_of(path: Sequence[Any]) -> list[str]:
    """The settings of the section at this path; none where it is no section that is always there."""
    section: Any = Config
    for part in path:
        field = section.model_fields.get(str(part)) if hasattr(section, "model_fields") else None
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return list(section.model_fields) if section is not None else []
