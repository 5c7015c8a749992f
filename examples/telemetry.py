"""Traces, metrics and the log of a job, on the terminal.

python examples/telemetry.py

Needs kling-async[otel] and opentelemetry-sdk. In a service, the exporters of your program take the place of those here.
"""

import asyncio
import logging
import sys

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from kling_async import Client, Image
from kling_async.otel import Telemetry
from kling_async.sandbox import sandbox_without_key


async def main() -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("kling_async").setLevel(logging.INFO)  # DEBUG: every call
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
    reader = InMemoryMetricReader()
    telemetry = Telemetry(tracer_provider=spans, meter_provider=MeterProvider([reader]))
    async with Client(observer=telemetry) as client:
        with trace.get_tracer("shop", tracer_provider=spans).start_as_current_span("order 17"):
            await client.run(Image("a paper boat"), key="order-17", tags={"customer": "23"})
        metrics = reader.get_metrics_data()
    for resource in metrics.resource_metrics if metrics else []:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                print(metric.name, metric.unit, *(point.attributes for point in metric.data.data_points))


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main())
