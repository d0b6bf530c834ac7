"""What of the site's configuration the chat service needs. Plain values; knows nothing of files."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.agents.traces.chat import Privacy, Usage
from shoal.config import Config

#: comparisons and audits under way at once
BACKGROUND_LIMIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Limits, shares, prices and labels.

    Attributes:
        audit_share: of the calls that specialists answer, the share that is also put to the generalist.
        price_in, price_out: USD per million tokens of the generalist; both 0 where none is configured.
        generalist_local: the owner says that the generalist runs on this very machine, so that `local-only` data may go to it.
    """

    deadline_s: float = 120.0
    specialist_deadline_s: float = 1.5
    default_privacy: Privacy = "internal"
    audit_share: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    generalist_local: bool = False

    @classmethod
    def from_config(cls, config: Config) -> ServiceSettings:
        generalist = config.generalist
        return cls(
            deadline_s=config.serve.deadline_s,
            specialist_deadline_s=config.serve.specialist_deadline_s,
            default_privacy=config.privacy.default_label,
            audit_share=config.rollout.audit_share,
            price_in=0.0 if generalist is None else generalist.price_in,
            price_out=0.0 if generalist is None else generalist.price_out,
            generalist_local=generalist is not None and generalist.local,
        )

    def cost_usd(self, usage: Usage) -> float | None:
        """What the generalist's tokens cost; None where no price is configured."""
        if not self.price_in and not self.price_out:
            return None
        return (usage.prompt_tokens * self.price_in + usage.completion_tokens * self.price_out) / 1e6
