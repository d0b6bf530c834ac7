"""What is looked for in which calls: kinds of personal data by privacy label, and whether names are looked for too. Pure.

This is the seam between scrubbing and recognising: patterns of our own (`recognise.py`) by default, a kept library with a language
model (`names.py`) beside them where the owner names one. How both were chosen: `bench/privacy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.agents.curation.recognise import Finding, find_personal_data
from shoal.config import PrivacyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What is replaced in traces.

    Attributes:
        kinds: of personal data with a form.
        by_label: other kinds for calls under a privacy label; none where it is empty.
        names_model: a spaCy model that finds names; empty for none. Calls whose label has no kinds are left alone by it too.
    """

    kinds: Sequence[str]
    by_label: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names_model: str = ""

    def kinds_for(self, label: str) -> Sequence[str]:
        return self.by_label.get(label, self.kinds)

    def find(self, text: str, label: str) -> list[Finding]:
        """All findings in order of their place; none overlaps another, and one with a form goes before a name.

        Raises ConfigError as `name_finder`.
        """
        kinds = self.kinds_for(label)
        found = find_personal_data(text, kinds)
        if not self.names_model or not kinds:
            return found
        from shoal.agents.curation.names import name_finder

        names = [
            name
            for name in name_finder(self.names_model)(text)
            if all(name.end <= other.start or name.start >= other.end for other in found)
        ]
        return sorted([*found, *names], key=lambda finding: finding.start)


def recognition_of(config: PrivacyConfig) -> Recognition:
    return Recognition(
        kinds=config.recognisers,
        by_label={label: kinds for label, kinds in config.labels.items()},
        names_model=config.names_model,
    )
