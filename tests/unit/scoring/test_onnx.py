"""`OnnxEmbedder` with a small encoder that is built here: a table of vectors, one for each word."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from agent_memory.scoring import MemoryIndex, ScoreWeights
from agent_memory.scoring.onnx import OnnxEmbedder

WORDS = ["[PAD]", "[UNK]", "the", "river", "is", "deep", "bread", "was", "warm"]
TABLE = np.random.default_rng(3).standard_normal((len(WORDS), 16)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as published encoders have it: the model in a folder `onnx` beside `tokenizer.json`."""
    root = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(root / "tokenizer.json"))
    (root / "onnx").mkdir()
    save_model(root / "onnx" / "model.onnx", [None, None, 16])
    return root


def save_model(path, shape) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    if len(shape) == 2:
        nodes[0].output[0] = "all"
        nodes.append(helper.make_node("ReduceMean", ["all"], ["last_hidden_state"], axes=[1], keepdims=0))
    graph = helper.make_graph(nodes, "table", inputs, outputs, [numpy_helper.from_array(TABLE, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def test_texts_become_the_means_of_their_tokens_whatever_they_share_a_batch_with(folder):
    texts = ["the river is deep", "bread", "the bread was warm warm", "unheard", "river"]
    for batch in (1, 2, 32):
        embedder = OnnxEmbedder(folder, batch=batch, normalize=False)
        assert embedder.dimensions == 16
        for text, vector in zip(texts, embedder(texts), strict=True):
            rows = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
            np.testing.assert_allclose(vector, TABLE[rows].mean(axis=0), rtol=1e-5, atol=1e-6)
    first = OnnxEmbedder(folder, pooling="first")(texts)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(first[0], TABLE[2] / np.linalg.norm(TABLE[2]), rtol=1e-5)
    cut = OnnxEmbedder(folder, max_tokens=1, normalize=False)(["bread was warm"])
    np.testing.assert_allclose(cut[0], TABLE[6], rtol=1e-6)
    assert OnnxEmbedder(folder)([]).shape == (0, 16)


def test_an_index_embeds_with_it(folder):
    embedder = OnnxEmbedder(folder)
    index = MemoryIndex(embedder.dimensions, model="table", embedder=embedder)
    index.upsert(["a", "b"], texts=["the river is deep", "the bread was warm"])
    assert index.search(text="bread", weights=ScoreWeights(lexical=0)).ids == ["b", "a"]


def test_what_is_not_an_encoder_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder must hold tokenizer\.json and model\.onnx"):
        OnnxEmbedder(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    save_model(tmp_path / "model.onnx", [None, 16])
    with pytest.raises(ValueError, match="model must take input_ids"):
        OnnxEmbedder(tmp_path)
    with pytest.raises(ValueError, match="pooling must be one of mean, first, got 'last'"):
        OnnxEmbedder(folder, pooling="last")
    with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
        OnnxEmbedder(folder, batch=0)
