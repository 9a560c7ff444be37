"""The README's Python examples run as printed, but for the names of models, which are ones that need no network."""

import re
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
LINKS = [
    (page.relative_to(ROOT), link)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for link in sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text())))
]


def test_the_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = ROOT / "recipes" / "quickstart" / "backbone"
    backbone = tmp_path / "backbone"
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(backbone)
    AutoTokenizer.from_pretrained(folder).save_pretrained(backbone)
    training, own_columns, sharing = (block.split("```")[0] for block in README.split("```python\n")[1:])
    code = training.replace('"google-bert/bert-base-uncased"', repr(str(backbone)))
    assert code != training
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert "'label': " in capsys.readouterr().out
    exec(own_columns, names)
    assert capsys.readouterr().out == own_columns.splitlines()[-1].partition("  # ")[2] + "\n"
    names = {}
    exec(sharing.replace('"user/mtbert-smart"', '"outputs/mine"'), names)
    assert list(names["pipe"](("a cat sat", "a cat was sitting"))) == ["mood", "same"]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_into_the_repository_leads_somewhere(page: Path, link: str) -> None:
    assert (ROOT / page.parent / link).exists()
