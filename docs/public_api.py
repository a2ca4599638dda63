"""The public API: the names that plugins and programs may import. A test compares the list with the code.

A module's public names are those in `__all__`; without it, the classes and functions that it defines.
"""

from __future__ import annotations

import importlib
import inspect

CHAPTERS: dict[str, dict[str, str]] = {
    "Reading photos": {
        "bibwatch.registry": "Registry",
        "bibwatch.settings": "Settings load",
        "bibwatch.images": (
            "ImageLimits Photo decode heif_supported open_photo resize scaled_size sha256 shrink to_rgb widen"
        ),
        "bibwatch.judging": "Judge Judgement Race Rules judge judge_race",
        "bibwatch.errors": (
            "AlreadyRunningError BibwatchError Blame ConfigurationError ModelBusyError ModelDisconnectedError "
            "ModelError ModelFaultError ModelNotServedError ModelRejectedError ModelReplyError "
            "ModelTimeoutError ModelTruncatedError ModelUnavailableError ModelUnreachableError "
            "PhotoChangedError PhotoEmptyError PhotoError PhotoGoneError PhotoIncompleteError "
            "PhotoOversizedError PhotoUndecodableError PhotoUnreadableError PhotoUnsupportedError Proof Retry "
            "StoreError one_line"
        ),
    },
    "What is read": {
        "bibwatch.domain.box": "Box",
        "bibwatch.domain.candidates": "Candidate Look LookTaken Source best normalized",
        "bibwatch.domain.decisions": "Action Decision",
        "bibwatch.domain.readings": "Reading Reason Verdict summary",
        "bibwatch.domain.recogniser": "Recogniser",
        "bibwatch.domain.states": "State",
    },
    "Writing plugins": {
        "bibwatch.runtimes.base": (
            "BoxConvention Constraint CoordinateSpace FinishReason Markup ModelOptions OutputKind Prediction "
            "Runtime TextLine Token Usage"
        ),
        "bibwatch.runtimes.generative": "BatchRuntime GenerativeOptions",
        "bibwatch.interpreters.base": "Interpreter InterpreterOptions",
        "bibwatch.interpreters.replies": "reply",
        "bibwatch.stages.base": "Outcome Stage StageOptions",
        "bibwatch.testing": "InterpreterConformance RuntimeConformance StageConformance",
    },
    "Built-in runtimes": {
        "bibwatch.runtimes.ocr": "VisionOcr VisionOcrOptions",
        "bibwatch.runtimes.openai": "Address VisionOpenAILikeApi VisionOpenAILikeApiOptions",
        "bibwatch.runtimes.transformers": (
            "TransformersModelType TransformersPromptStyle VisionHfTransformers VisionHfTransformersOptions"
        ),
        "bibwatch.runtimes.vllm": "VisionVllm VisionVllmOptions",
        "bibwatch.runtimes.mlx": "VisionMlx VisionMlxOptions",
    },
    "Built-in interpreters": {
        "bibwatch.interpreters.bib_json": "BibJson BibJsonOptions",
        "bibwatch.interpreters.bib_lines": "BibLines BibLinesOptions",
        "bibwatch.interpreters.code_block": "Code CodeBlock CodeBlockOptions marked_code",
        "bibwatch.interpreters.doctags": "DocTags DocTagsOptions Document Element",
        "bibwatch.interpreters.plain_text": "PlainText PlainTextOptions",
        "bibwatch.interpreters.table": "Doubt Table TableLines TableLinesOptions TableText TableTextOptions table",
    },
    "Built-in stages": {
        "bibwatch.stages.bib_number": "BibNumber BibNumberOptions",
        "bibwatch.stages.code_understanding": "CodeUnderstanding CodeUnderstandingOptions",
        "bibwatch.stages.picture_description": "PictureDescription PictureDescriptionOptions",
        "bibwatch.stages.table": "Table TableOptions",
        "bibwatch.stages.vision_convert": "VisionConvert VisionConvertOptions",
    },
    "Extractors": {
        "image_rec_mod.main": "get_extractor",
        "image_rec_mod.backends.vlm": (
            "ImageScaler LocalQwenExtractor LocalSmolVLMExtractor LocalVLMExtractor RemoteVLLMExtractor "
            "StageExtractor VLMExtractor bib_stage"
        ),
    },
}


def page() -> str:
    """Make a table of the names of each module, with the first line of their docstrings."""
    parts = []
    for chapter, modules in CHAPTERS.items():
        parts.append(f"## {chapter}\n")
        for module, names in modules.items():
            found = importlib.import_module(module)
            rows = [f"| `{name}` | {_summary(getattr(found, name))} |" for name in names.split()]
            parts.append("\n".join((f"### {module}\n", "| name | meaning |", "| --- | --- |", *rows, "")))
    return "\n".join(parts)


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("|", "\\|")
