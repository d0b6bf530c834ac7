"""What a gateway replica counts, for Prometheus. Owns the names; each replica has its own registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from shoal.agents.feedback.audit_view import AuditView

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: seconds; a specialist answers within the first ones, a large model within the last ones
#: what is read from the database is as old as this, at most
_AUDITS_EVERY_S = 5.0
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Audits = Callable[[], Mapping[str, AuditView]]


class Metrics:
    """The figures of one replica.

    Args:
        spool_bytes: how large the spool is on disk now; called when the figures are read.
        audits: of the versions that are asked, by `<task>@<number>`; likewise, every few seconds at most.
    """

    def __init__(self, spool_bytes: Callable[[], float] | None = None, audits: Audits | None = None) -> None:
        self._registry = CollectorRegistry()
        r = self._registry
        self._requests = Counter(
            "shoal_requests", "Calls answered, by who answered", ["performer"], registry=r
        )
        self._errors = Counter(
            "shoal_errors", "Calls that ended with an error, by its code", ["code"], registry=r
        )
        self._incomplete = Counter(
            "shoal_incomplete", "Streams that ended before their end", ["reason"], registry=r
        )
        self._seconds = Histogram(
            "shoal_request_seconds",
            "From a call's arrival to its answer's end",
            ["performer"],
            buckets=_BUCKETS,
            registry=r,
        )
        self._fallbacks = Counter(
            "shoal_fallbacks",
            "Calls whose specialist was asked and did not answer",
            ["task", "reason"],
            registry=r,
        )
        self._generalist_errors = Counter(
            "shoal_generalist_errors", "Errors of the generalist, by code", ["code"], registry=r
        )
        self._tokens = Counter(
            "shoal_tokens", "Tokens, by performer and kind", ["performer", "kind"], registry=r
        )
        # money has no series where the generalist's price is not known: 0 would say that it is free
        self._cost = Counter(
            "shoal_cost_usd",
            "What the generalist's tokens cost, for answers and for audits",
            ["what"],
            registry=r,
        )
        self._avoided = Counter(
            "shoal_avoided_usd",
            "What the generalist would have charged for calls that specialists answered",
            ["task"],
            registry=r,
        )
        self._compute = Counter(
            "shoal_compute_seconds", "Time in specialists' engines, shadows' too", ["task"], registry=r
        )
        self._comparisons = Counter(
            "shoal_comparisons",
            "Answers of specialists compared with the generalist's",
            ["task", "source", "outcome"],
            registry=r,
        )
        self._dropped = Counter(
            "shoal_background_dropped", "Comparisons and audits left out for lack of room", registry=r
        )
        #: looking a series up by its labels costs more than counting, and every call does four
        self._of_performer: dict[str, tuple[Counter, Histogram, Counter, Counter]] = {}
        self._epoch = Gauge("shoal_router_epoch", "The snapshot that the replica decides over", registry=r)
        if spool_bytes is not None:
            Gauge("shoal_spool_bytes", "Bytes of calls not yet compacted", registry=r).set_function(
                spool_bytes
            )
        if audits is not None:
            r.register(_AuditCollector(audits))

    def answered(self, performer: str, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """`performer` is `specialist/<task>` (without its version, which would add a series each) or `generalist`."""
        series = self._of_performer.get(performer)
        if series is None:
            series = self._of_performer[performer] = (
                self._requests.labels(performer),
                self._seconds.labels(performer),
                self._tokens.labels(performer, "prompt"),
                self._tokens.labels(performer, "completion"),
            )
        requests, latency, prompts, completions = series
        requests.inc()
        latency.observe(max(0.0, seconds))
        prompts.inc(prompt_tokens)
        completions.inc(completion_tokens)

    def failed(self, code: str) -> None:
        self._errors.labels(code).inc()

    def incomplete(self, reason: str) -> None:
        self._incomplete.labels(reason).inc()

    def fell_back(self, task: str, reason: str) -> None:
        self._fallbacks.labels(task, reason).inc()

    def generalist_failed(self, code: str) -> None:
        self._generalist_errors.labels(code).inc()

    def spent(self, usd: float, what: str) -> None:
        """On the generalist, for `answers` or `audits`."""
        self._cost.labels(what).inc(usd)

    def avoided(self, task: str, usd: float | None) -> None:
        """A specialist answered; `usd` is None where the generalist's price is not known."""
        if usd is not None:
            self._avoided.labels(task).inc(usd)

    def computed(self, task: str, seconds: float) -> None:
        """A specialist was asked, whoever answered."""
        self._compute.labels(task).inc(seconds)

    def compared(self, task: str, source: str, outcome: str) -> None:
        """`outcome` is `agrees`, `differs` or `undefined`."""
        self._comparisons.labels(task, source, outcome).inc()

    def dropped(self) -> None:
        self._dropped.inc()

    def epoch(self, epoch: int) -> None:
        self._epoch.set(epoch)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


#: name -> (what it is, how it is read)
_AUDIT_FIGURES: Mapping[str, tuple[str, Callable[[AuditView], float]]] = {
    "shoal_audit_compared": ("Answers also put to the generalist", lambda a: a.compared),
    "shoal_audit_wrong": ("Of those, how many differed from the generalist's", lambda a: a.wrong),
    "shoal_audit_given": ("Answers given to clients", lambda a: a.given),
    "shoal_audit_contradicted": ("Of those, how many feedback contradicted", lambda a: a.contradicted),
    "shoal_audit_e_value": ("Evidence that the contract is broken", lambda a: a.e_value),
    "shoal_audit_limit": ("At this e-value the version is taken back", lambda a: a.limit),
    "shoal_inputs_drifted": ("1 where the inputs were seen to drift", lambda a: a.drift == "drifted"),
    "shoal_inputs_distance": ("Of the confidences from the calibration's, in [0, 1]", lambda a: a.distance),
}


class _AuditCollector(Collector):
    """Reads the audits when they are asked for, so that no call waits for the database."""

    def __init__(self, audits: Audits) -> None:
        self._audits = audits
        self._read: Mapping[str, AuditView] = {}
        self._until = float("-inf")

    def describe(self) -> Iterator[GaugeMetricFamily]:
        for name, (what, _) in _AUDIT_FIGURES.items():
            yield GaugeMetricFamily(name, what, labels=["specialist"])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() >= self._until:
            self._read = self._audits()
            self._until = time.monotonic() + _AUDITS_EVERY_S
        for name, (what, value) in _AUDIT_FIGURES.items():
            family = GaugeMetricFamily(name, what, labels=["specialist"])
            for specialist, audit in self._read.items():
                family.add_metric([specialist], float(value(audit)))
            yield family
