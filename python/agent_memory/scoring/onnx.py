"""An embedder for a model in a folder of yours: `pip install agent-memory-redis[onnx]`, no network access, no PyTorch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agent_memory import _check
from agent_memory.scoring._settings import check_count

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

Pooling = Literal["mean", "first"]


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise _check.missing_extra("OnnxEmbedder", package, "onnx") from None


class OnnxEmbedder:
    """Turns texts into vectors with a sentence encoder in the ONNX format, on this machine alone.

        embedder = OnnxEmbedder("models/my-encoder")
        index = MemoryIndex(embedder.dimensions, model="my-encoder", embedder=embedder)

    - `folder`: holds `tokenizer.json` (of the `tokenizers` library) and `model.onnx` or `onnx/model.onnx`, as sentence
      encoders are commonly published and exported. Nothing is downloaded: bring the folder, and mind its licence.
    - `pooling`: `"mean"` of the last layer over the tokens that are not padding, or `"first"` token (CLS). Which one a
      model wants stands in its description.
    - `normalize`: whether vectors are scaled to length 1.
    - `max_tokens`: longer texts are cut; the model sets the limit. `batch`: texts that go through the model at once.
    - `threads`: of the inference, >= 1.

    Raises `ModuleNotFoundError` without the extra, `FileNotFoundError` if a file is missing, and `ValueError` for a
    model whose inputs or output are not those of a sentence encoder.

    Thread safety: may be called from any number of threads; the inference runs without the GIL.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        max_tokens: int = 256,
        batch: int = 32,
        threads: int = 1,
    ) -> None:
        for name, value in (("max_tokens", max_tokens), ("batch", batch), ("threads", threads)):
            check_count(name, value)
        _check.one_of("pooling", pooling, ("mean", "first"))
        _check.flag("normalize", normalize)
        _check.path("folder", folder)
        root = Path(folder)
        candidates = [root / "model.onnx", root / "onnx" / "model.onnx"]
        model = next((path for path in candidates if path.is_file()), None)
        tokenizer = root / "tokenizer.json"
        if model is None or not tokenizer.is_file():
            raise FileNotFoundError(f"folder must hold tokenizer.json and model.onnx or onnx/model.onnx, got {root}")
        runtime, tokenizers = _imported("onnxruntime"), _imported("tokenizers")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        shape = self._session.get_outputs()[0].shape
        if unknown or "input_ids" not in self._inputs or len(shape) != 3 or not isinstance(shape[2], int):
            raise ValueError(
                "model must take input_ids, attention_mask and token_type_ids and give (batch, tokens, dimensions) first, "
                f"got inputs {self._inputs} and a first output of shape {shape}"
            )
        self._dimensions: int = shape[2]
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding()
        self._pooling, self._normalize, self._batch = pooling, normalize, batch

    @property
    def dimensions(self) -> int:
        """Elements of a vector."""
        return self._dimensions

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimensions), float32. Texts of like length share a batch."""
        out = np.empty((len(texts), self._dimensions), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            out[part] = self._embed([texts[index] for index in part])
        return out

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(texts)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        feed = {"input_ids": np.array([one.ids for one in encoded], np.int64), "attention_mask": mask}
        feed["token_type_ids"] = np.zeros_like(mask)
        last: NDArray[np.float32] = self._session.run(None, {name: feed[name] for name in self._inputs})[0]
        if self._pooling == "first":
            vectors = last[:, 0]
        else:
            weights = mask[:, :, None].astype(np.float32)
            vectors = (last * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
        if self._normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors
