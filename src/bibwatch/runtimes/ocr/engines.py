"""Runs a bundled ONNX model on the CPU, with OpenVINO or ONNX Runtime.

Knows the engines and where the models are. Does not know what goes into them or comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class Network(NamedTuple):
    """A model ready to run: one array in, its first output out."""

    run: Callable[[Any], Any]
    characters: str  # the alphabet of a recogniser, a character a line


def load(model: str, engine: str, threads: int) -> Network:
    """Load a model of RapidOCR's wheel by its file name. `threads` 0 uses all. Raises ImportError."""
    import rapidocr

    path = Path(rapidocr.__file__).parent / "models" / model
    if engine == "auto":
        engine = "openvino" if find_spec("openvino") else "onnxruntime"
    return _openvino(path, threads) if engine == "openvino" else _onnxruntime(path, threads)


def _openvino(path: Path, threads: int) -> Network:
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()
    model = core.read_model(path)
    where = ["framework", "character"]
    characters = str(model.get_rt_info(where).value) if model.has_rt_info(where) else ""
    # One stream: the photo at hand gets all threads.
    config: dict[str, Any] = {"NUM_STREAMS": 1}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", config)
    return Network(lambda array: compiled([array])[0], characters)


def _onnxruntime(path: Path, threads: int) -> Network:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    characters = session.get_modelmeta().custom_metadata_map.get("character", "")
    return Network(lambda array: session.run(None, {name: array})[0], characters)
