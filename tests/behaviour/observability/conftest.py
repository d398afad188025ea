"""Spans in memory."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent_memory.observability.tracing import instrument


class Spans:
    """The spans that have ended, taken with each look."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def take(self):
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        return spans

    def names(self):
        return [span.name for span in self.take()]


@pytest.fixture
def spans():
    made = Spans()
    instrumentation = instrument(tracer_provider=made.provider)
    yield made
    instrumentation.uninstrument()
