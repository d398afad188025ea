"""Spans of a cluster client: one for each command and pipeline, whichever way it takes."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent_memory.observability.tracing import instrument


async def test_a_span_for_each_call(cluster, async_connect_cluster):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = async_connect_cluster(cluster)
    await client.set("key", 1)
    on = instrument(tracer_provider=provider)
    try:
        await client.set("key", 1)
        await client.get("key")
        await client.mget_nonatomic(["key"])
        pipeline = client.pipeline()
        pipeline.set("key", 1)
        pipeline.get("other")
        await pipeline.execute()
    finally:
        on.uninstrument()
    await client.get("key")
    names = [span.name for span in exporter.get_finished_spans()]
    assert names[:2] == ["SET", "GET"]
    assert names[-1] == "PIPELINE"
    assert names.count("PIPELINE") <= 2  # mget_nonatomic is a pipeline, too
    assert len(names) <= 5
