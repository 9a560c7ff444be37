"""Makes our classes known to transformers' `AutoConfig`, `AutoModel` and `pipeline`, when those are imported.

Registering needs the classes on both sides, and with them torch and most of transformers, which takes seconds. So it
waits for the modules that hold the registers: a program that imports this package and them, in whichever order, finds
our classes registered, and one that does not need them does not pay.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def _register_config() -> None:
    from transformers import AutoConfig

    from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig

    AutoConfig.register(MultiTaskBertConfig.model_type, MultiTaskBertConfig, exist_ok=True)


def _register_model() -> None:
    from transformers import AutoModel

    from hf_multitask.model.modeling_mtbert import MultiTaskBertConfig, MultiTaskBertModel

    AutoModel.register(MultiTaskBertConfig, MultiTaskBertModel, exist_ok=True)


def _register_pipeline() -> None:
    from transformers import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from hf_multitask.model.pipeline_mtbert import MultiTaskPipeline

    PIPELINE_REGISTRY.register_pipeline("multi-task", pipeline_class=MultiTaskPipeline, pt_model=AutoModel, type="text")


_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
    "transformers.pipelines": _register_pipeline,
}


class _AfterImport(MetaPathFinder):
    """Finds the modules of the registers where they are, and registers our classes once they are loaded."""

    def __init__(self, registrations: dict[str, Callable[[], None]]) -> None:
        self.pending = dict(registrations)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = self.pending.pop(fullname, None)
        if register is None:
            return None
        # No longer pending, so that this asks the other finders.
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, register)
        return spec


class _Registering(Loader):
    """Another loader, and then a registration."""

    def __init__(self, loader: Loader, register: Callable[[], None]) -> None:
        self.loader = loader
        self.register = register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.register()


def register_when_imported() -> None:
    """Registers our classes where the registers are imported already, and elsewhere once they are."""
    later = {}
    for name, register in _REGISTRATIONS.items():
        if name in sys.modules:
            register()
        else:
            later[name] = register
    sys.meta_path.insert(0, _AfterImport(later))
