"""Makes our classes known to transformers' `AutoConfig`, `AutoModel` and `pipeline`, when those are imported.

Registering needs the classes on both sides, and with them torch and most of transformers, which takes seconds. So it
waits for the modules that hold the registers: a program that imports this package and them, in whichever order, finds
our classes registered, and one that does not need them does not pay.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def _register_config(registers: Any, ours: Any) -> None:
    registers.AutoConfig.register(ours.MultiTaskBertConfig.model_type, ours.MultiTaskBertConfig, exist_ok=True)


def _register_model(registers: Any, ours: Any) -> None:
    registers.AutoModel.register(ours.MultiTaskBertConfig, ours.MultiTaskBertModel, exist_ok=True)


def _register_pipeline(registers: Any, ours: Any) -> None:
    from transformers import AutoModel

    registers.PIPELINE_REGISTRY.register_pipeline(
        "multi-task", pipeline_class=ours.MultiTaskPipeline, pt_model=AutoModel, type="text"
    )


# The module of the register, the module of what is registered, and how.
_REGISTRATIONS: list[tuple[str, str, Callable[[Any, Any], None]]] = [
    (
        "transformers.models.auto.configuration_auto",
        "hf_multitask.model.configuration_mtbert",
        _register_config,
    ),
    ("transformers.models.auto.modeling_auto", "hf_multitask.model.modeling_mtbert", _register_model),
    ("transformers.pipelines", "hf_multitask.model.pipeline_mtbert", _register_pipeline),
]


class _Registrar(MetaPathFinder):
    """Sees the modules of registers and of classes being loaded, and registers once both sides of a pair are."""

    def __init__(self) -> None:
        self.pending = list(_REGISTRATIONS)
        self.loaded: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.loaded or not any(fullname in pair for *pair, _ in self.pending):
            return None
        # Before asking the other finders, so that they are who answers.
        self.loaded.add(fullname)
        spec = find_spec(fullname)
        self.loaded.remove(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, self)
        return spec

    def on_loaded(self, name: str) -> None:
        self.loaded.add(name)
        for entry in [entry for entry in self.pending if name in entry[:2]]:
            registers, ours, register = entry
            if registers not in self.loaded:
                continue
            if ours in self.loaded:
                self.pending.remove(entry)
                register(sys.modules[registers], sys.modules[ours])
            elif ours not in sys.modules:
                # Comes back here. If it is being loaded just now, it will by itself.
                import_module(ours)


class _Watched(Loader):
    """Another loader, which tells the registrar when it is done."""

    def __init__(self, loader: Loader, registrar: _Registrar) -> None:
        self.loader = loader
        self.registrar = registrar

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.registrar.on_loaded(module.__name__)


def register_when_imported() -> None:
    """Registers our classes where the registers are imported already, and elsewhere once they are."""
    registrar = _Registrar()
    sys.meta_path.insert(0, registrar)
    for registers, *_ in _REGISTRATIONS:
        if registers in sys.modules:
            registrar.on_loaded(registers)
