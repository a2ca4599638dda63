"""Models in a local folder or the Hugging Face cache: where they are, and whether this machine can run them.

Knows the cache's layout, and checks memory and installed libraries without importing them. Downloads nothing.
"""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from bibwatch.runtimes.generative import GenerativeOptions

_GB = 1e9
_CONFIGS = ("config.json", "params.json")  # the latter in Mistral's own format, which vLLM reads
_INDEX = ".index.json"  # lists the files of sharded weights
_WEIGHTS = ("*.safetensors", "*.bin")
_UNSHARDED_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # if one exists, an index is irrelevant
_SHARD = re.compile(r"-\d+-of-(?P<total>\d+)\.")

# Names in use that do not exist on the hub.
_ALIASES = {"HuggingFaceTB/SmolVLM-2.2B-Instruct": "HuggingFaceTB/SmolVLM-Instruct"}


class HubOptions(GenerativeOptions):
    """A model that runs in this process, from a local folder or the Hugging Face cache."""

    repo_id: str = Field(min_length=1, description="Name on the Hugging Face hub, or path of a folder.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the weights. It can do anything you can."
    )

    # The size that the processor resizes images to; a setting that it does not support is an error at load.
    image_longest_edge: int | None = Field(
        default=None,
        ge=32,
        description="SmolVLM, Idefics3: longest side before an image is split into tiles, in pixels.",
    )
    min_pixels: int | None = Field(default=None, ge=1, description="Qwen: minimum area of an image, in pixels.")
    max_pixels: int | None = Field(default=None, ge=1, description="Qwen: maximum area of an image, in pixels.")

    @property
    def model(self) -> str:
        return self.repo_id

    def unavailable_reason(self, *modules: str, extra: str) -> str | None:
        """Return why the model cannot run: it is refused, a library or the model is missing, or memory is too small."""
        if self.refused:
            return self.refused
        if absent := not_installed(*modules, extra=extra):
            return absent
        if self.memory_gb and self.memory_gb > total_memory_gb():
            return f"needs {self.memory_gb:g} GB of memory, this machine has {total_memory_gb():.0f}"
        return self.missing_model() if folder_of(self.repo_id, self.revision) is None else None

    def missing_model(self) -> str:
        """Return a message that the model is missing or incomplete, and how to get it."""
        found = _find_folder(self.repo_id, self.revision)
        missing = found and _missing_file(found)
        if found == Path(self.repo_id).expanduser():
            return f"the folder {self.repo_id} has no {missing}; finish copying or downloading the model"
        if found is None and self.repo_id.startswith(("/", ".", "~")):
            return f"the folder {self.repo_id} does not exist"
        revision = f" --revision {self.revision}" if self.revision else ""
        command = f"`hf download {hub_name(self.repo_id)}{revision}`"
        if found:
            return f"the download of {self.repo_id} is incomplete: {found} has no {missing}; run {command} again"
        size = f" ({self.download_gb:g} GB)" if self.download_gb else ""
        return (
            f"{self.repo_id} is neither a folder nor in the Hugging Face cache {cache()} (HF_HOME changes its path); "
            f"download it{size} with {command}, or without internet run that elsewhere with --local-dir DIR, "
            "copy DIR here and set repo_id to its path"
        )


def not_installed(*modules: str, extra: str) -> str | None:
    """Return which of these libraries are not installed and how to install them; None if all are installed."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"{', '.join(absent)} not installed: pip install 'bibwatch[{extra}]'" if absent else None


def hub_name(repo_id: str) -> str:
    """Return a model's name on the hub."""
    return _ALIASES.get(repo_id, repo_id)


def folder_of(repo_id: str, revision: str | None = None) -> Path | None:
    """Return the folder with a model's files, local or in the cache; None if it is missing or incomplete."""
    found = _find_folder(repo_id, revision)
    return found if found and not _missing_file(found) else None


def _find_folder(repo_id: str, revision: str | None) -> Path | None:
    """Return the folder of a model, which may still be incomplete."""
    named = Path(repo_id).expanduser()
    if named.is_dir():
        return named
    snapshots = cache() / f"models--{hub_name(repo_id).replace('/', '--')}"
    reference = snapshots / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = snapshots / "snapshots" / commit if commit else None
    return found if found and found.is_dir() else None


def _missing_file(folder: Path) -> str | None:
    """Return a file that is missing in a model's folder, as after an interrupted download; None if it is complete."""
    if not any((folder / name).is_file() for name in _CONFIGS):
        return _CONFIGS[0]
    indexes = folder.glob(f"*{_INDEX}")
    absent = [[name for name in _indexed_files(index) if not (folder / name).is_file()] for index in indexes]
    if not all(absent):  # the weights are complete in one format
        return None
    patterns = _UNSHARDED_WEIGHTS if absent else _WEIGHTS
    files = [file.name for pattern in patterns for file in folder.glob(pattern) if file.is_file()]
    shards = [(name, int(found["total"])) for name in files if (found := _SHARD.search(name))]
    if len(shards) < len(files) or any(len(shards) >= total for _, total in shards):
        return None
    return min(absent, key=len)[0] if absent else f"weights ({', '.join(_WEIGHTS)})"


def _indexed_files(file: Path) -> list[str]:
    """Return the names of the weight files in an index."""
    try:
        return sorted(set(json.loads(file.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # the index is truncated
        return [f"complete {file.name}"]


def total_memory_gb() -> float:
    """Return the machine's memory in gigabytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB


def cache() -> Path:
    """Return the folder of the Hugging Face cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
