"""The page to try a model, in a browser."""

import os
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from hf_multitask import MultiTaskPipeline
from tests.conftest import ROOT, tiny_model

pytestmark = pytest.mark.slow

TASKS = {
    "mood": {"type": "single_label_classification", "labels": ["bad", "so-so", "good"]},
    "same": {"type": "pair_classification", "labels": ["different", "same"]},
    "near": {"type": "pair_regression"},
    "topics": {"type": "multi_label_classification", "labels": ["plot", "music"]},
}
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
PORT = 7869
SCORE = re.compile(r"^\d\.\d\d$", re.MULTILINE)


@pytest.fixture
def folder(tokenizer: Any, tmp_path: Path) -> Path:
    pytest.importorskip("gradio")
    tiny_model(TASKS).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def serve(command: list[Any], folder: Path, **environment: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "GRADIO_SERVER_PORT": str(PORT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(120):
        if process.poll() is not None:
            raise AssertionError(process.stdout.read()[-3000:])
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}", timeout=1).close()
            return process
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise AssertionError("the page did not come up")


def use(screenshot: Path) -> dict[str, Any]:
    """Fills in the page in headless Chromium; what it shows for a text, for a pair, and for a blank text."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")
    seen: dict[str, Any] = {"errors": []}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        # Fonts from elsewhere are no part of the page.
        tab.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
        tab.on("pageerror", lambda error: seen["errors"].append(str(error)))
        tab.goto(f"http://127.0.0.1:{PORT}", wait_until="domcontentloaded")
        tab.get_by_label("Text", exact=True).fill("a lovely film")
        tab.get_by_role("button", name="Predict").click()
        playwright.expect(tab.get_by_text("so-so").first).to_be_visible(timeout=30_000)
        seen["text"] = tab.locator("body").inner_text()
        tab.get_by_label("Second text (for pairs)").fill("a dull film")
        tab.get_by_role("button", name="Predict").click()
        playwright.expect(tab.get_by_text(SCORE).first).to_be_visible(timeout=30_000)
        seen["pair"] = tab.locator("body").inner_text()
        tab.screenshot(path=str(screenshot))
        tab.get_by_label("Text", exact=True).fill(" ")
        tab.get_by_role("button", name="Predict").click()
        playwright.expect(tab.get_by_text("A text is blank.").first).to_be_visible(timeout=30_000)
        browser.close()
    return seen


def check(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
    assert "so-so" in seen["text"]
    # All labels of a task whose rows have several, or none.
    assert {"plot", "music"} <= set(seen["text"].split())
    assert "different" not in seen["text"]
    assert not SCORE.search(seen["text"])
    assert SCORE.search(seen["pair"])
    for shown in (
        "mood, first text",
        "mood, second text",
        "topics, second text",
        "different",
        "same",
        "near (from 0 to 5)",
    ):
        assert shown in seen["pair"]


def test_the_page_shows_every_task_of_a_text_and_of_a_pair(folder: Path, tmp_path: Path) -> None:
    process = serve([ROOT / "recipes/demo.py", "--model", folder, "--port", PORT], tmp_path, PYTHONPATH=str(ROOT))
    try:
        check(use(tmp_path / "page.png"))
    finally:
        process.kill()
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_space_runs_without_the_package(folder: Path, tmp_path: Path) -> None:
    writer = [sys.executable, ROOT / "recipes/demo.py", "--model", folder, "--space", tmp_path / "space"]
    written = subprocess.run(list(map(str, writer)), capture_output=True, text=True, cwd=ROOT)
    assert written.returncode == 0, written.stderr[-2000:]
    names = {path.name for path in (tmp_path / "space").iterdir()}
    assert names == {"README.md", "app.py", "demo.py", "model", "requirements.txt"}
    assert "sdk: gradio" in (tmp_path / "space" / "README.md").read_text()
    # As where the package is not installed.
    blocked = "import runpy, sys; sys.modules['hf_multitask'] = None; runpy.run_path('app.py', run_name='__main__')"
    process = serve(["-c", blocked], tmp_path / "space", PYTHONPATH=str(tmp_path / "space"))
    try:
        check(use(tmp_path / "space.png"))
    finally:
        process.kill()
    again = subprocess.run(list(map(str, writer)), capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 2
    assert "is not empty" in again.stderr.splitlines()[-1]


def test_the_page_marks_the_entities_of_a_text(tokenizer: Any) -> None:
    pytest.importorskip("gradio")
    model = tiny_model({**TASKS, "names": {"type": "token_classification", "labels": ["O", "B-animal", "I-animal"]}})
    pipe = MultiTaskPipeline(model, tokenizer)
    demo = runpy.run_path(str(ROOT / "recipes" / "demo.py"))
    entities = [
        {"entity_group": "animal", "word": "big cat", "start": 4, "end": 11},
        {"entity_group": "animal", "word": "dog", "start": 12, "end": 15},
    ]
    marked = [("the ", None), ("big cat", "animal"), (" ", None), ("dog", "animal"), (" sat", None)]
    assert demo["_marked"](entities, "the big cat dog sat") == marked
    (predict, *_) = demo["page"](pipe, "a model").fns.values()
    shown = predict.fn("the cat sat", "")
    assert "".join(part for part, _ in shown[-2]) == "the cat sat"
    assert shown[-1] is None


def test_the_page_shows_answers_candidates_and_masked_words(tokenizer: Any) -> None:
    pytest.importorskip("gradio")
    tasks = {
        **TASKS,
        "asked": {"type": "question_answering"},
        "words": {"type": "masked_language_modeling"},
        "next": {"type": "multiple_choice"},
        "found": {"type": "ranking"},
    }
    page = runpy.run_path(str(ROOT / "recipes" / "demo.py"))["page"]
    (predict, *_) = page(MultiTaskPipeline(tiny_model(tasks), tokenizer), "a model").fns.values()
    *_, asked, masked, none, chosen, found = predict.fn("the [MASK] sat", "", "a cat\n\na dog\n")
    assert asked is None
    assert [set(one) for one in masked[0]] == [{"score", "token", "token_str", "sequence"}] * len(masked[0])
    assert none is None
    assert chosen.keys() == found.keys() == {"a cat", "a dog"}
    *_, asked, masked, none, chosen, found = predict.fn("who sat", "the big cat sat", "")
    assert asked.keys() <= {"the big cat sat"[i:j] for i in range(15) for j in range(16)}
    assert (masked, none, chosen, found) == ([], [], None, None)


def test_the_page_of_a_model_that_reads_candidates_alone_asks_for_them(tokenizer: Any) -> None:
    gradio = pytest.importorskip("gradio")
    page = runpy.run_path(str(ROOT / "recipes" / "demo.py"))["page"]
    (predict, *_) = page(
        MultiTaskPipeline(tiny_model({"next": {"type": "multiple_choice"}}), tokenizer), "x"
    ).fns.values()
    assert predict.fn("a cat", "", "sat\nran")[0].keys() == {"sat", "ran"}
    with pytest.raises(gradio.Error, match="There are no candidates"):
        predict.fn("a cat", "", "")
