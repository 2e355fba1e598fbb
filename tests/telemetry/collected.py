"""What a reader of metrics has collected, in a form to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
    Sum,
)

from poolguard.telemetry.names import POOL_NAME

Point = NumberDataPoint | HistogramDataPoint


@dataclass(frozen=True)
class Collected:
    """The metrics of one pool."""

    metrics: Mapping[str, Metric]
    points: Mapping[str, Mapping[str, Point]]
    """By the name and the value of the attribute that is not the pool's name."""

    def number(self, name: str, value: str = "") -> float:
        """A counter's, an up-down counter's or a gauge's."""
        point = self.points[name][value]
        assert isinstance(point, NumberDataPoint)
        return point.value

    def numbers(self, name: str) -> dict[str, float]:
        """Those of its series that are not 0."""
        found = {value: self.number(name, value) for value in self.points[name]}
        return {value: n for value, n in found.items() if n}

    def histogram(self, name: str) -> HistogramDataPoint:
        [point] = self.points[name].values()
        assert isinstance(point, HistogramDataPoint)
        return point


Read = Callable[[str], Collected]


def collected(reader: InMemoryMetricReader, pool: str) -> Collected:
    """Collect now, and take what poolguard's instruments say of *pool*."""
    metrics: dict[str, Metric] = {}
    points: dict[str, dict[str, Point]] = {}
    for metric in ours(reader):
        assert metric.name not in metrics, f"{metric.name} is reported twice"
        for point in metric.data.data_points:
            attributes: dict[str, Any] = dict(point.attributes or {})
            if attributes.pop(POOL_NAME) == pool:
                assert isinstance(point, NumberDataPoint | HistogramDataPoint)
                assert len(attributes) <= 1
                metrics[metric.name] = metric
                points.setdefault(metric.name, {})[str(*attributes.values())] = point
    return Collected(metrics, points)


def ours(reader: InMemoryMetricReader) -> Iterator[Metric]:
    """poolguard's metrics, of all pools."""
    data = reader.get_metrics_data()
    for of_resource in () if data is None else data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            if of_scope.scope.name == "poolguard":
                yield from of_scope.metrics


def kind_of(metric: Metric) -> str:
    """As :class:`poolguard.telemetry.metrics.Instrument` calls it."""
    if isinstance(metric.data, Sum):
        return "counter" if metric.data.is_monotonic else "updowncounter"
    return "gauge" if isinstance(metric.data, Gauge) else "histogram"
