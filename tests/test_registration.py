"""What importing the package costs, and that it registers in whichever order things are imported."""

import json
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


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, json, hf_multitask; print(json.dumps(sorted(sys.modules)))"
    modules = {name.split(".")[0] for name in json.loads(run(code))}
    assert modules & {"torch", "transformers", "datasets", "matplotlib", "gradio", "optuna", "scipy", "pandas"} == set()


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
    "from hf_multitask import MultiTaskBertModel",
    "from hf_multitask import MultiTaskPipeline",
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
    named = [name for names in hf_multitask._MODULES.values() for name in names]
    assert sorted(named) == sorted(hf_multitask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_multitask.nothing  # noqa: B018
