"""Built-in presets: model options with a name. Data, not code; the registry makes options of them.

A preset of your own, or a changed one, goes into config.toml: `[presets.NAME]`, with `kind` or `base`.

Sizes are those of the published weights; memory is what their makers say, otherwise weights and a third, with pictures
no larger than these presets send. Names ending in -vllm, -ollama and -lmstudio ask a server on this machine (change
`api_url` for another); -mlx is for Apple silicon; those with -inline- run in this process, as in the founding guide.
"""

from __future__ import annotations

from typing import Any, Final

_VLLM: Final = {"kind": "vision_openailike_api", "api_url": "http://127.0.0.1:8000/v1"}
_OLLAMA: Final = {"kind": "vision_openailike_api", "api_url": "http://127.0.0.1:11434/v1", "logprobs": False}
_LMSTUDIO: Final = {
    "kind": "vision_openailike_api",
    "api_url": "http://127.0.0.1:1234/v1",
    "logprobs": False,
    "boxes": "none",  # it makes pictures smaller by itself, and boxes in pixels wrong
    "longest_side": 1024,
}
_APACHE: Final = "Apache-2.0"
_DOCUMENTS: Final = ["vision_convert", "table", "code_understanding"]
_CPU: Final = {"kind": "vision_hf_transformers", "device": "cpu", "batch_size": 4}
_GPU: Final = {"kind": "vision_hf_transformers", "device": "cuda", "batch_size": 16}
_AUTO: Final = {"kind": "vision_hf_transformers"}
_INLINE_VLLM: Final = {"kind": "vision_vllm", "batch_size": 32}

# Qwen's processors allow 16384 image tokens, which takes 13.7 GB for the smallest model: they are always capped.
_QWEN_PIXELS: Final = {"min_pixels": 256 * 28 * 28, "max_pixels": 1280 * 28 * 28, "longest_side": 1536}
_QWEN3_PIXELS: Final = {"min_pixels": 256 * 32 * 32, "max_pixels": 1280 * 32 * 32, "longest_side": 1536}
# SmolVLM looks at tiles of 384 pixels (2.2B) or 512 (smaller ones), four along the longer side.
_SMOL_TILES: Final = {"image_longest_edge": 1536, "longest_side": 1536}
_SMALL_SMOL_TILES: Final = {"image_longest_edge": 2048, "longest_side": 2048}

_QWEN2_2B: Final = {
    "repo_id": "Qwen/Qwen2-VL-2B-Instruct",
    "boxes": "rel1000",
    "licence": _APACHE,
    **_QWEN_PIXELS,
    "download_gb": 4.42,
    "memory_gb": 6,
}
_SMOL: Final = {
    "repo_id": "HuggingFaceTB/SmolVLM-Instruct",
    "licence": _APACHE,
    **_SMOL_TILES,
    "download_gb": 4.49,
    "memory_gb": 5,
}
_SMOLDOCLING: Final = {
    "licence": "CDLA-Permissive-2.0",
    "markup": "doctags",
    "stages": _DOCUMENTS,
    "longest_side": 2048,
    "download_gb": 0.51,
    "memory_gb": 0.7,
}
_SMOLDOCLING_HUB: Final = {
    "repo_id": "docling-project/SmolDocling-256M-preview",
    **_SMOLDOCLING,
    "image_longest_edge": 2048,
    "max_new_tokens": 4096,
    "skip_special_tokens": False,
}
_GRANITE: Final = {"licence": _APACHE, "longest_side": 1536}

BUILT_IN: Final[dict[str, dict[str, Any]]] = {
    # Bundled: nothing to download.
    "rapidocr": {"kind": "vision_ocr", "licence": _APACHE, "download_gb": 0, "memory_gb": 0.7},
    # The founding guide's four.
    "qwen-inline-cpu": {**_CPU, **_QWEN2_2B},
    "qwen-inline-gpu": {**_GPU, **_QWEN2_2B, "batch_size": 8},  # 16 would take it over 6 GB
    "smol-inline-cpu": {**_CPU, **_SMOL},
    "smol-inline-gpu": {**_GPU, **_SMOL},
    # Smaller and newer ones of both families.
    "smolvlm-256m": {
        **_AUTO,
        **_SMALL_SMOL_TILES,
        "repo_id": "HuggingFaceTB/SmolVLM-256M-Instruct",
        "licence": _APACHE,
        "download_gb": 0.51,
        "memory_gb": 1,
    },
    "smolvlm-500m": {
        "base": "smolvlm-256m",
        "repo_id": "HuggingFaceTB/SmolVLM-500M-Instruct",
        "licence": _APACHE,
        "download_gb": 1.02,
        "memory_gb": 1.3,
    },
    "smolvlm2-256m": {
        "base": "smolvlm-256m",
        "repo_id": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "licence": _APACHE,
        "download_gb": 1.03,
        "memory_gb": 1,
        "note": "the weights are float32",
    },
    "smolvlm2-500m": {
        "base": "smolvlm-256m",
        "repo_id": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "licence": _APACHE,
        "download_gb": 2.03,
        "memory_gb": 1.8,
        "note": "the weights are float32",
    },
    "smolvlm2-2.2b": {
        **_AUTO,
        **_SMOL_TILES,
        "repo_id": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "licence": _APACHE,
        "download_gb": 8.99,
        "memory_gb": 5.2,
        "note": "the weights are float32; on a CPU without bfloat16 it takes 12 GB",
    },
    "qwen2.5-vl-3b": {
        **_AUTO,
        **_QWEN_PIXELS,
        "repo_id": "Qwen/Qwen2.5-VL-3B-Instruct",
        "boxes": "model_pixels",
        "licence": "Qwen Research (no commercial use)",
        "download_gb": 7.51,
        "memory_gb": 9.8,
    },
    "qwen2.5-vl-7b": {
        "base": "qwen2.5-vl-3b",
        "repo_id": "Qwen/Qwen2.5-VL-7B-Instruct",
        "licence": _APACHE,
        "download_gb": 16.6,
        "memory_gb": 21.5,
    },
    "qwen3-vl-2b": {
        **_AUTO,
        **_QWEN3_PIXELS,
        "repo_id": "Qwen/Qwen3-VL-2B-Instruct",
        "boxes": "rel1000",
        "licence": _APACHE,
        "download_gb": 4.3,
        "memory_gb": 5.5,
    },
    "qwen3-vl-4b": {
        "base": "qwen3-vl-2b",
        "repo_id": "Qwen/Qwen3-VL-4B-Instruct",
        "licence": _APACHE,
        "download_gb": 8.9,
        "memory_gb": 11.5,
    },
    "qwen3-vl-8b": {
        "base": "qwen3-vl-2b",
        "repo_id": "Qwen/Qwen3-VL-8B-Instruct",
        "licence": _APACHE,
        "download_gb": 17.5,
        "memory_gb": 23,
    },
    # The families the guide names as future.
    "llava": {
        **_AUTO,
        "repo_id": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "licence": _APACHE,
        "longest_side": 2304,
        "download_gb": 1.79,
        "memory_gb": 2.4,
    },
    "llava-1.5-7b": {
        **_AUTO,
        "repo_id": "llava-hf/llava-1.5-7b-hf",
        "licence": "Llama 2 Community",
        "longest_side": 672,
        "download_gb": 14.1,
        "memory_gb": 18.4,
        "note": "looks at 336 x 336 pixels and cuts off the sides of a wide photo",
    },
    "internvl": {
        **_AUTO,
        "repo_id": "OpenGVLab/InternVL3_5-1B-HF",
        "licence": _APACHE,
        "longest_side": 1792,
        "download_gb": 2.12,
        "memory_gb": 2.8,
    },
    "minicpm-v": {
        **_AUTO,
        "repo_id": "openbmb/MiniCPM-V-4.6",
        "licence": _APACHE,
        "longest_side": 1792,
        "download_gb": 2.6,
        "memory_gb": 3.4,
    },
    "cogvlm": {
        **_AUTO,
        "repo_id": "THUDM/cogvlm-chat-hf",
        "transformers_model_type": "automodel-causallm",
        "transformers_prompt_style": "raw",
        "trust_remote_code": True,
        "longest_side": 490,
        "licence": "CogVLM (registration for commercial use)",
        "download_gb": 35,
        "memory_gb": 40,
        "refused": "its code was written for transformers 4.40 and fails with 5 (docs/runtimes.md, CogVLM)",
    },
    # The founding note's.
    "smoldocling": {**_AUTO, **_SMOLDOCLING_HUB},
    "granite-vision": {
        **_AUTO,
        **_GRANITE,
        "repo_id": "ibm-granite/granite-vision-3.3-2b",
        "download_gb": 5.96,
        "memory_gb": 7.8,
    },
    "qwen-vl": {"base": "qwen3-vl-2b"},
    # A server on this machine; `api_url` names another one.
    "qwen-vllm": {
        **_VLLM,
        "model_name": "Qwen/Qwen2-VL-2B-Instruct",
        "boxes": "rel1000",
        "licence": _APACHE,
        "longest_side": 1536,
    },
    "smol-vllm": {
        **_VLLM,
        "model_name": "HuggingFaceTB/SmolVLM-Instruct",
        "licence": _APACHE,
        "longest_side": 1536,
    },
    "smoldocling-vllm": {
        **_VLLM,
        **_SMOLDOCLING,
        "model_name": "docling-project/SmolDocling-256M-preview",
        "max_new_tokens": 4096,
        "skip_special_tokens": False,
    },
    "granite-vision-vllm": {**_VLLM, **_GRANITE, "model_name": "ibm-granite/granite-vision-3.3-2b"},
    "qwen-vl-ollama": {
        **_OLLAMA,
        "model_name": "qwen3-vl:2b-instruct",
        "boxes": "rel1000",
        "licence": _APACHE,
        "longest_side": 1536,
        "download_gb": 1.9,
    },
    "granite-vision-ollama": {**_OLLAMA, **_GRANITE, "model_name": "granite3.2-vision:2b", "download_gb": 2.44},
    "llava-ollama": {
        **_OLLAMA,
        "model_name": "llava:7b",
        "licence": _APACHE,
        "longest_side": 1344,
        "download_gb": 4.7,
        "note": "LLaVA 1.6",
    },
    "minicpm-v-ollama": {
        **_OLLAMA,
        "model_name": "minicpm-v:8b",
        "licence": "MiniCPM Model License",
        "longest_side": 1792,
        "download_gb": 5.5,
        "note": "MiniCPM-V 2.6",
    },
    "qwen-vl-lmstudio": {**_LMSTUDIO, "model_name": "qwen/qwen3-vl-4b", "licence": _APACHE},
    "smoldocling-lms": {
        **_SMOLDOCLING,
        **_LMSTUDIO,
        "model_name": "smoldocling-256m-preview-mlx-docling-snap",
        "max_new_tokens": 4096,
        "note": "load it into LM Studio under this name, or set model_name",
    },
    "granite-vision-lmstudio": {**_GRANITE, **_LMSTUDIO, "model_name": "granite-vision-3.2-2b"},
    # In this process, with vLLM.
    "qwen-inline-vllm": {**_INLINE_VLLM, **_QWEN2_2B},
    "smol-inline-vllm": {**_INLINE_VLLM, **_SMOL},
    "smoldocling-inline-vllm": {**_INLINE_VLLM, **_SMOLDOCLING_HUB},
    "granite-vision-inline-vllm": {
        **_INLINE_VLLM,
        **_GRANITE,
        "repo_id": "ibm-granite/granite-vision-3.3-2b",
        "download_gb": 5.96,
        "memory_gb": 7.8,
    },
    # Apple silicon.
    "qwen-mlx": {
        "kind": "vision_mlx",
        **_QWEN2_2B,
        "repo_id": "mlx-community/Qwen2-VL-2B-Instruct-4bit",
        "download_gb": 1.3,
        "memory_gb": 2.5,
    },
    "smol-mlx": {"kind": "vision_mlx", **_SMOL, "repo_id": "mlx-community/SmolVLM-Instruct-bf16"},
    "smoldocling-mlx": {
        "kind": "vision_mlx",
        **_SMOLDOCLING_HUB,
        "repo_id": "docling-project/SmolDocling-256M-preview-mlx-bf16",
    },
}
