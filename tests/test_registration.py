"""What `import hf_multitask` does: transformers knows our classes, and our names are there."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hf_multitask


def run(code: str, *arguments: object) -> str:
    process = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.strip()


CHECK = """
from transformers import AutoConfig, AutoModel
assert type(AutoConfig.from_pretrained(sys.argv[1])).__module__ == "hf_multitask.model.configuration_mtbert"
assert type(AutoModel.from_pretrained(sys.argv[1])).__module__ == "hf_multitask.model.modeling_mtbert"
from transformers.pipelines import PIPELINE_REGISTRY
assert PIPELINE_REGISTRY.check_task("multi-task")[1]["impl"].__module__ == "hf_multitask.model.pipeline_mtbert"
"""
ORDERS = [
    "import hf_multitask",
    "from transformers import AutoModel, pipeline; import hf_multitask",
    # Any module of the package stands for the package.
    "import hf_multitask.model.messages",
]


def test_classes_are_registered_in_whichever_order_things_are_imported(tmp_path: Path) -> None:
    from tests.conftest import tiny_model

    tiny_model().save_pretrained(tmp_path)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda imports: run(f"import sys\n{imports}\n{CHECK}", tmp_path), ORDERS))


def test_all_public_names_are_there() -> None:
    for name in hf_multitask.__all__:
        assert getattr(hf_multitask, name).__module__.startswith("hf_multitask."), name
    assert set(hf_multitask.__all__) <= set(dir(hf_multitask))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_multitask.nothing  # noqa: B018


def test_what_only_the_trainer_needs_is_imported_with_the_trainer() -> None:
    code = "import sys, hf_multitask\nprint({'datasets', 'evaluate', 'matplotlib'} & set(sys.modules))"
    assert run(code) == "set()"
    assert run(f"{code}\nprint(hf_multitask.MultiTaskTrainer.__name__)").endswith("MultiTaskTrainer")
