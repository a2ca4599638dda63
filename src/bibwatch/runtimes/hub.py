"""Models that come as a folder, or by name from the Hugging Face hub: where they are, and what they need here.

Knows the hub's cache layout, memory, devices and installed libraries without importing any of the heavy ones.
Downloads nothing.
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
_CONFIGS = ("config.json", "params.json")  # the latter in Mistral's own folders, which vLLM reads
_LIST = ".index.json"  # names the files that weights are spread over
_WEIGHTS = ("*.safetensors", "*.bin")
_WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as one file, beside which a list says nothing
_PART = re.compile(r"-\d+-of-(?P<of>\d+)\.")

# Names under which a model is known that the hub does not have; DESIGN: the guide's is one of them.
_ALSO_KNOWN_AS = {"HuggingFaceTB/SmolVLM-2.2B-Instruct": "HuggingFaceTB/SmolVLM-Instruct"}


class HubOptions(GenerativeOptions):
    """A model that runs in this process, from a folder or from the Hugging Face hub."""

    repo_id: str = Field(min_length=1, description="Name on the Hugging Face hub, or a folder.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the weights. It can do anything you can."
    )

    # What a processor is told of the size of pictures; a knob its family does not know is an error at load.
    image_longest_edge: int | None = Field(
        default=None, ge=32, description="SmolVLM, Idefics3: pixels of the longest side that is cut into tiles."
    )
    min_pixels: int | None = Field(default=None, ge=1, description="Qwen: least area of a picture, in pixels.")
    max_pixels: int | None = Field(default=None, ge=1, description="Qwen: largest area of a picture, in pixels.")

    @property
    def model(self) -> str:
        return self.repo_id

    def missing(self, *modules: str, extra: str) -> str | None:
        """Return what stands in the way: a refusal, a library that is not installed, a model that is not here."""
        if self.refused:
            return self.refused
        if absent := not_installed(*modules, extra=extra):
            return absent
        if self.memory_gb and self.memory_gb > total_memory_gb():
            return f"takes {self.memory_gb:g} GB of memory, this machine has {total_memory_gb():.0f}"
        return self.absence() if folder_of(self.repo_id, self.revision) is None else None

    def absence(self) -> str:
        """Say that the model is not on this machine, or not all of it, and how it gets there."""
        found = _place_of(self.repo_id, self.revision)
        lacks = found and _lacks(found)
        if found == Path(self.repo_id).expanduser():
            return f"the folder {self.repo_id} lacks {lacks}; finish copying or downloading the model"
        if found is None and self.repo_id.startswith(("/", ".", "~")):
            return f"there is no folder {self.repo_id}"
        revision = f" --revision {self.revision}" if self.revision else ""
        command = f"`hf download {real_name(self.repo_id)}{revision}`"
        if found:
            return f"the download of {self.repo_id} is not finished, {found} lacks {lacks}; run {command} again"
        size = f" ({self.download_gb:g} GB)" if self.download_gb else ""
        return (
            f"{self.repo_id} is no folder, and not in the Hugging Face cache {cache()} (HF_HOME moves it); download "
            f"it{size} with {command}, or without internet run that elsewhere "
            "with --local-dir DIR, copy DIR here and set repo_id to its path"
        )


def not_installed(*modules: str, extra: str) -> str | None:
    """Say which of these libraries are not installed, and how they get here; None if they all are."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"{', '.join(absent)} not installed: pip install 'bibwatch[{extra}]'" if absent else None


def real_name(repo_id: str) -> str:
    """Return the name the hub knows a model by."""
    return _ALSO_KNOWN_AS.get(repo_id, repo_id)


def folder_of(repo_id: str, revision: str | None = None) -> Path | None:
    """Return the folder with a model's files: the one named, or one in the hub's cache.

    None if it is not on this machine, or not all of it.
    """
    found = _place_of(repo_id, revision)
    return found if found and not _lacks(found) else None


def _place_of(repo_id: str, revision: str | None) -> Path | None:
    """Return the folder in which a model is, or is on its way to."""
    named = Path(repo_id).expanduser()
    if named.is_dir():
        return named
    snapshots = cache() / f"models--{real_name(repo_id).replace('/', '--')}"
    reference = snapshots / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = snapshots / "snapshots" / commit if commit else None
    return found if found and found.is_dir() else None


def _lacks(folder: Path) -> str | None:
    """Return a file that a model's folder lacks; None if it can be read. A download may have been interrupted."""
    if not any((folder / name).is_file() for name in _CONFIGS):
        return _CONFIGS[0]
    absent = [[name for name in _listed(file) if not (folder / name).is_file()] for file in folder.glob(f"*{_LIST}")]
    if not all(absent):  # weights that are there in one format need not be in another
        return None
    patterns = _WHOLE_WEIGHTS if absent else _WEIGHTS
    files = [file.name for pattern in patterns for file in folder.glob(pattern) if file.is_file()]
    parts = [(name, int(found["of"])) for name in files if (found := _PART.search(name))]
    if len(parts) < len(files) or any(len(parts) >= of for _, of in parts):
        return None
    return min(absent, key=len)[0] if absent else f"weights ({', '.join(_WEIGHTS)})"


def _listed(file: Path) -> list[str]:
    """Return the names of the files in a list of weights."""
    try:
        return sorted(set(json.loads(file.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # half a list
        return [f"a whole {file.name}"]


def total_memory_gb() -> float:
    """Return the machine's memory in gigabytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB


def cache() -> Path:
    """Return the folder in which the hub's models are kept."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
