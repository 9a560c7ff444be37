"""The README's Python example runs as printed, but for the backbone, which is one that needs no network."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(__file__).parents[1] / "recipes" / "quickstart" / "backbone"
    backbone = tmp_path / "backbone"
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(backbone)
    AutoTokenizer.from_pretrained(folder).save_pretrained(backbone)
    (example,) = (block.split("```")[0] for block in README.split("```python\n")[1:])
    code = example.replace('"google-bert/bert-base-uncased"', repr(str(backbone)))
    assert code != example
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "'label': " in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(set(__import__("re").findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_every_link_into_the_repository_leads_somewhere(path: str) -> None:
    assert (Path(__file__).parents[1] / path).exists()
