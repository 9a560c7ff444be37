"""A page to try a model: a text, or two, and what every task says of them, side by side.

    pip install "hf-multitask[demo]"
    python recipes/demo.py --model outputs/quickstart
    python recipes/demo.py --model user/mtbert-smart --space DIR   # writes a Space, ready to be pushed

A Space holds a copy of this file and needs neither this package nor, for a model on the Hub, its weights.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

COMMAND_LINE = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
COMMAND_LINE.add_argument("--model", required=True, help="Folder or Hub id of the model.")
COMMAND_LINE.add_argument("--space", type=Path, metavar="DIR", help="Write a Space there instead of opening the page.")
COMMAND_LINE.add_argument("--host", default="127.0.0.1", help="Where to listen; 0.0.0.0 for the whole network.")
COMMAND_LINE.add_argument("--port", type=int, help="By default the first that is free from 7860 on.")

if __name__ == "__main__":
    from hf_multitask_cli.command_line import check_installed, refusals

    # Before the import that takes seconds.
    COMMAND_LINE.parse_args()
    with refusals():
        check_installed("gradio", "demo")

import gradio as gr

_APP = '''"""The page of recipes/demo.py for {model}; its code comes with the model."""

from demo import page
from transformers import pipeline

app = page(pipeline("multi-task", model={model!r}, trust_remote_code=True), {title!r})

if __name__ == "__main__":
    app.launch()
'''
_README = """---
title: {title}
emoji: ⚖️
colorFrom: gray
colorTo: blue
sdk: gradio
sdk_version: {version}
app_file: app.py
{models}---

What each task of {title} says of a text, or of two.
"""
_REQUIREMENTS = "safetensors\ntorch\ntransformers>=5.20\n"


def page(pipe: Any, title: str) -> gr.Blocks:
    """The page.

    Args:
        pipe: A multi-task pipeline.
        title: Its heading.
    """
    # What ranks candidates or chooses from them has no box for these.
    tasks = {name: task for name, task in pipe.model.config.tasks.items() if "texts" not in task.text_columns.values()}
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\n\nTasks of one text read each of the two; tasks of pairs need both.")
        with gr.Row():
            first = gr.Textbox(label="Text", lines=2)
            second = gr.Textbox(label="Second text (for pairs)", lines=2)
        button = gr.Button("Predict", variant="primary")
        # By task, and for a task of one text also by which of the two it reads.
        outputs: dict[tuple[str, int | None], gr.Label | gr.HighlightedText | gr.JSON] = {}
        with gr.Row():
            for name, task in tasks.items():
                for place in (None,) if task.texts == 2 else (0, 1):
                    label = name if place is None else f"{name}, {('first', 'second')[place]} text"
                    if bounds := getattr(task, "score_range", None):
                        label += " (from {:g} to {:g})".format(*bounds)
                    with gr.Column(min_width=220):
                        if "words" in task.text_columns.values():
                            outputs[name, place] = gr.HighlightedText(label=label)
                        elif task.label_names or "score" in task.PREDICTION_KEYS:
                            outputs[name, place] = gr.Label(label=label, num_top_classes=len(task.label_names) or 1)
                        else:
                            outputs[name, place] = gr.JSON(label=label)

        def predict(text: str, text_pair: str) -> list[Any]:
            # A blank text could be predicted, but here it is a box that nobody has filled in.
            if not text.strip():
                raise gr.Error("A text is blank.")
            try:
                predicted = pipe((text, text_pair) if text_pair.strip() else text, top_k=None)
            except ValueError as error:
                raise gr.Error(str(error).removeprefix("input 1: ").capitalize()) from error
            texts = [text, text_pair] if text_pair.strip() else [text]
            return [
                _marked(predicted[name], place, texts)
                if "words" in tasks[name].text_columns.values()
                else _shown(predicted.get(name), place)
                if isinstance(box, gr.Label)
                else _of_text(predicted.get(name), place, texts)
                for (name, place), box in outputs.items()
            ]

        gr.on([button.click, first.submit, second.submit], predict, [first, second], list(outputs.values()))
    return blocks


def _shown(predicted: Any, place: int | None) -> dict[str, float] | str | None:
    """What shows a task's predictions: the probability of each class, or the score; None where it has none."""
    if place is not None and predicted is not None:
        # Of one text there is one prediction, of two there is one for each.
        is_of_one = isinstance(predicted, dict) or (isinstance(predicted[0], dict) and "label" in predicted[0])
        of_texts = [predicted] if is_of_one else predicted
        predicted = of_texts[place] if place < len(of_texts) else None
    if isinstance(predicted, list):
        # An answer may stand in several places, of which the likeliest is the first; or there is none.
        named = ((entry.get("label", entry.get("answer")) or "none", entry["score"]) for entry in reversed(predicted))
        return dict(named)
    return None if predicted is None else f"{predicted['score']:.2f}"


def _of_text(predicted: Any, place: int | None, texts: list[str]) -> Any:
    """What a task says of a text, or of both, as it says it; None where there is no such text."""
    if place is None or predicted is None:
        return predicted
    of_texts = [predicted] if len(texts) == 1 else predicted
    return of_texts[place] if place < len(texts) else None


def _marked(predicted: Any, place: int | None, texts: list[str]) -> list[tuple[str, str | None]] | None:
    """A text in parts, each with the entity that it is, if it is one; None where there is no such text."""
    if place is None or place >= len(texts):
        return None
    parts: list[tuple[str, str | None]] = []
    text, end = texts[place], 0
    for entity in predicted if len(texts) == 1 else predicted[place]:
        parts += [(text[end : entity["start"]], None), (entity["word"], entity["entity_group"])]
        end = entity["end"]
    return [part for part in [*parts, (text[end:], None)] if part[0]]


def write_space(folder: Path, model: str) -> None:
    """Writes a Space: this page, what it needs installed, and, of a model in a folder, the model.

    Raises:
        OSError: The folder is there and not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OSError(f"--space {folder} is not empty.")
    folder.mkdir(parents=True, exist_ok=True)
    title, is_local = Path(model).name, Path(model).is_dir()
    if is_local:
        shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns("checkpoint-*", "_*", "runs"))
        model = "model"
    models = "" if is_local else f"models:\n- {model}\n"
    shutil.copyfile(__file__, folder / "demo.py")
    (folder / "app.py").write_text(_APP.format(model=model, title=title), encoding="utf-8")
    (folder / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
    readme = _README.format(title=title, version=gr.__version__, models=models)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def main() -> None:
    # Here, so that the copy in a Space needs neither of ours.
    from transformers import pipeline

    import hf_multitask  # noqa: F401 (registers the pipeline)
    from hf_multitask_cli.command_line import refusals

    args = COMMAND_LINE.parse_args()
    with refusals():
        if args.space is not None:
            write_space(args.space, args.model)
            print(f"Saved to {args.space}; push it by: hf upload USER/NAME {args.space} . --repo-type space")
            sys.exit()
        pipe = pipeline("multi-task", model=args.model)  # type: ignore[call-overload]
        app = page(pipe, Path(args.model).name)
    app.launch(server_name=args.host, server_port=args.port)


if __name__ == "__main__":
    main()
