# Generated from ../_async/test_cluster_spans.py by tools/generate_sync.py: edit that file, not this one.

"""Spans of a cluster client: one for each command and pipeline, whichever way it takes."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent_memory.observability.tracing import instrument


def test_a_span_for_each_call(cluster, connect_cluster):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = connect_cluster(cluster)
    client.set("key", 1)
    on = instrument(tracer_provider=provider)
    try:
        client.set("key", 1)
        client.get("key")
        client.mget_nonatomic(["key"])
        pipeline = client.pipeline()
        pipeline.set("key", 1)
        pipeline.get("other")
        pipeline.execute()
    finally:
        on.uninstrument()
    client.get("key")
    names = [span.name for span in exporter.get_finished_spans()]
    assert names[:2] == ["SET", "GET"]
    assert names[-1] == "PIPELINE"
    assert names.count("PIPELINE") <= 2  # mget_nonatomic is a pipeline, too
    assert len(names) <= 5
