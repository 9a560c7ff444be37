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
    tasks = pipe.model.config.tasks
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\n\nTasks of one text read each of the two; tasks of pairs need both.")
        with gr.Row():
            boxes = [gr.Textbox(label="Text", lines=2), gr.Textbox(label="Second text (for pairs)", lines=2)]
            if any(map(_reads_candidates, tasks.values())):
                boxes.append(gr.Textbox(label="Candidates (one on each line)", lines=2))
        button = gr.Button("Predict", variant="primary")
        # By task, and for a task of one text also by which of the two it reads.
        outputs: dict[tuple[str, int | None], gr.Label | gr.HighlightedText | gr.JSON] = {}
        with gr.Row():
            for name, task in tasks.items():
                for place in (None,) if task.texts == 2 or _reads_candidates(task) else (0, 1):
                    label = name if place is None else f"{name}, {('first', 'second')[place]} text"
                    if bounds := getattr(task, "score_range", None):
                        label += " (from {:g} to {:g})".format(*bounds)
                    with gr.Column(min_width=220):
                        if "words" in task.text_columns.values():
                            outputs[name, place] = gr.HighlightedText(label=label)
                        elif task.label_names or "score" in task.PREDICTION_KEYS:
                            outputs[name, place] = gr.Label(label=label, num_top_classes=len(task.label_names) or 5)
                        else:
                            outputs[name, place] = gr.JSON(label=label)

        def predict(text: str, text_pair: str, candidates: str = "") -> list[Any]:
            # A blank text could be predicted, but here it is a box that nobody has filled in.
            if not text.strip():
                raise gr.Error("A text is blank.")
            texts = [text, text_pair] if text_pair.strip() else [text]
            try:
                predicted = _predicted(pipe, texts, [line for line in candidates.splitlines() if line.strip()])
            except ValueError as error:
                raise gr.Error(str(error).removeprefix("input 1: ").capitalize()) from error
            said = {key: _of_text(predicted.get(key[0]), key[1], texts) for key in outputs}
            return [
                _marked(said[name, place], texts[place or 0])
                if isinstance(box, gr.HighlightedText) and said[name, place] is not None
                else _shown(said[name, place])
                if isinstance(box, gr.Label)
                else said[name, place]
                for (name, place), box in outputs.items()
            ]

        events = [button.click, *(box.submit for box in boxes[:2])]
        gr.on(events, predict, boxes, list(outputs.values()))
    return blocks


def _reads_candidates(task: Any) -> bool:
    return "texts" in task.text_columns.values()


def _predicted(pipe: Any, texts: list[str], candidates: list[str]) -> dict[str, Any]:
    """What all tasks say that read the texts, or the texts with candidates, each with all its answers."""
    asked = tuple(texts) if len(texts) == 2 else texts[0]
    inputs: list[Any] = [(asked, candidates)] if candidates else []
    if not all(map(_reads_candidates, pipe.model.config.tasks.values())):
        inputs.append(asked)
    elif not candidates:
        raise ValueError("there are no candidates, which all tasks of this model read.")
    return {name: said for one in inputs for name, said in pipe(one, top_k=None).items()}


def _of_text(predicted: Any, place: int | None, texts: list[str]) -> Any:
    """What a task says of one of the texts, or of all it reads, as it says it; None where it says nothing."""
    if place is None or predicted is None:
        return predicted
    # Of one text there is one prediction, of two there is one for each.
    of_texts = [predicted] if len(texts) == 1 else predicted
    return of_texts[place] if place < len(texts) else None


def _shown(said: Any) -> dict[str, float] | str | None:
    """What shows a prediction: the score of each answer by its text, or the only score."""
    if isinstance(said, list):
        # A text may be several answers, of which the likeliest is the first; an empty one says that there is none.
        named = ((next(value for value in entry.values() if isinstance(value, str)), entry) for entry in reversed(said))
        return {text or "none": entry["score"] for text, entry in named}
    return None if said is None else f"{said['score']:.2f}"


def _marked(entities: list[dict[str, Any]], text: str) -> list[tuple[str, str | None]]:
    """A text in parts, each with the entity that it is, if it is one."""
    parts: list[tuple[str, str | None]] = []
    end = 0
    for entity in entities:
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
