"""Where a site keeps its files. Owns the layout of the data folder; opens none of the files itself, but the one that names its database."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Home:
    """One site's data folder. Everything that a site remembers is below it."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "shoal.yaml"

    @property
    def database(self) -> Path | str:
        """Tasks, versions, verdicts, keys: a SQLite file, or the URL that `use_database` was last told."""
        try:
            url = self.database_url.read_text(encoding="utf-8").strip()
        except OSError:
            url = ""
        return url or self.root / "shoal.db"

    @property
    def database_url(self) -> Path:
        """Names the database where it is no SQLite file in this folder, mode 0600."""
        return self.root / "database.url"

    def use_database(self, url: str) -> None:
        """From now on whoever opens this data folder finds its database there, with or without the configuration that says so."""
        if self.database == url or not self.root.is_dir():
            return
        draft = self.database_url.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(url + "\n", encoding="utf-8")
        draft.replace(self.database_url)

    @property
    def spool(self) -> Path:
        """Encrypted, append-only segments of calls that are not yet compacted."""
        return self.root / "spool"

    @property
    def traces(self) -> Path:
        """Scrubbed calls, in Parquet."""
        return self.root / "traces"

    @property
    def models(self) -> Path:
        """Immutable version folders: `<task id>/<version>/`."""
        return self.root / "models"

    @property
    def work(self) -> Path:
        """Unfinished learning: checkpoints that a later run resumes from."""
        return self.root / "work"

    @property
    def key(self) -> Path:
        """The site's 256-bit key, mode 0600."""
        return self.root / "site.key"

    @property
    def site(self) -> Path:
        """What the running site is: process ids, ports, Ray address."""
        return self.root / "site.json"

    @property
    def ray_token(self) -> Path:
        """The token that the running site's Ray asks for, mode 0600."""
        return self.root / "ray.token"

    @property
    def router_status(self) -> Path:
        """What the router actor last said of itself."""
        return self.root / "router.json"

    @property
    def placement_status(self) -> Path:
        """What the placement actor last said: nodes, demands, decision."""
        return self.root / "placement.json"

    @property
    def feedback_status(self) -> Path:
        """What the feedback actor last said of itself."""
        return self.root / "feedback.json"

    @property
    def ledger(self) -> Path:
        """Sums of what calls took and cost, so that they need not be read again. May be removed at any time."""
        return self.root / "ledger.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def create(self) -> Home:
        """Make the folder (mode 0700) if it is not there."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.spool, self.traces, self.models, self.work, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The data folder {self.root} cannot be made: {error.strerror}.",
                remedy="Name a writable folder with --home or SHOAL_HOME.",
            ) from error
        return self


def find_home(explicit: Path | None = None) -> Home:
    """`--home`, else `SHOAL_HOME`, else the nearest `.shoal` upwards, else `~/.shoal`."""
    if explicit is not None:
        return Home(explicit.expanduser().absolute())
    if from_environment := os.environ.get("SHOAL_HOME"):
        return Home(Path(from_environment).expanduser().absolute())
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".shoal").is_dir():
            return Home(folder / ".shoal")
    return Home(Path.home() / ".shoal")
